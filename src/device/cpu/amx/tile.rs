//! The tile unit itself: permission, configuration and the inner loop.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::LazyLock;

use super::super::simd::{Level, level};

static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
    // CPUID leaf 7, EDX: AMX-BF16 is bit 22, AMX-TILE bit 24.
    // SAFETY: every processor of this architecture has the instruction; newer versions of Rust declare the function safe.
    #[allow(unused_unsafe, reason = "older versions of Rust need the block")]
    let features = unsafe { __cpuid_count(7, 0) }.edx;
    let both = 1 << 22 | 1 << 24;
    // The kernel must agree to save eight more KiB of state: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
    // SAFETY: a system call without pointers; it changes nothing but the permission.
    level() == Level::Avx512
        && is_x86_feature_detected!("avx512bf16")
        && features & both == both
        && unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1023, 18) } == 0
});

/// Whether the processor has bf16 tiles and the kernel lets us use them.
pub fn available() -> bool {
    *AVAILABLE
}

/// The unit, configured for this thread until dropped: eight tiles of 16 rows of 64 bytes.
pub struct Tiles(PhantomData<*const ()>);

#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Configures the unit.
    ///
    /// # Panics
    /// If it is not [`available`].
    pub fn configure() -> Self {
        assert!(available());
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the unit is available, the configuration valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly, preserves_flags)) };
        Tiles(PhantomData)
    }

    /// `c[32 x 32] (+)= a·b`: `steps` steps of two packed tiles of each; rows of c are `row` f32 apart.
    ///
    /// # Safety
    /// `c` is good for 32 rows of 32.
    ///
    /// # Panics
    /// If an operand is too short or there is no step.
    #[inline(always)]
    pub unsafe fn multiply(&self, a: &[f32], b: &[f32], steps: usize, c: *mut f32, row: usize, add: bool) {
        assert!(steps > 0 && a.len() >= steps * 512 && b.len() >= steps * 512);
        // SAFETY: the unit is configured; the assert and the caller bound all accesses.
        unsafe {
            asm!(
                "test {add:e}, {add:e}",
                "jz 3f",
                "tileloadd tmm0, [{c} + {c_row}]",
                "tileloadd tmm1, [{c} + {c_row} + 64]",
                "tileloadd tmm2, [{low} + {c_row}]",
                "tileloadd tmm3, [{low} + {c_row} + 64]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {row}]",
                "tileloadd tmm6, [{b} + {row}]",
                "tileloadd tmm7, [{b} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {c_row}], tmm0",
                "tilestored [{c} + {c_row} + 64], tmm1",
                "tilestored [{low} + {c_row}], tmm2",
                "tilestored [{low} + {c_row} + 64], tmm3",
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                c = in(reg) c,
                low = in(reg) c.add(16 * row),
                c_row = in(reg) 4 * row,
                row = in(reg) 64usize,
                steps = inout(reg) steps => _,
                add = in(reg) u32::from(add),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the unit is configured.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
