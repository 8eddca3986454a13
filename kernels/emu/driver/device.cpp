// Devices, contexts, the names of errors.

#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "driver.h"

using namespace driver;

namespace driver {

static std::atomic<bool> initialised;
static thread_local Context *current_context;
static Context *contexts;

Context *current() { return current_context; }
Context *context_of(int device) { return &contexts[device]; }

static Result know(const char *who, int device) {
    if (!initialised)
        return complain(who, NOT_INITIALIZED, "before cuInit");
    if (device < 0 || device >= settings().devices)
        return complain(who, INVALID_DEVICE, "device %d of %d", device, settings().devices);
    return SUCCESS;
}

// As ENTER, where a number must be that of a device.
#define ENTER_DEVICE                                                                                                   \
    ENTER;                                                                                                             \
    if (Result bad = know(__func__, device))                                                                           \
    return bad

// Numbers of an H100 or an A100, by CUdevice_attribute; -1 for what we do not know.
static int attribute(int which, int device) {
    bool hopper = settings().capability >= 90;
    switch (which) {
    case 1: case 2: case 3: return 1024; // threads of a block; its sides
    case 4: return 64;
    case 5: return 0x7fffffff; // sides of a grid
    case 6: case 7: return 65535;
    case 8: return 48 << 10; // shared memory of a block
    case 9: return 64 << 10; // constant memory
    case 10: return 32; // a warp
    case 11: return 0x7fffffff; // pitch
    case 12: case 82: return 65536; // registers of a block, of a multiprocessor
    case 13: return hopper ? 1980000 : 1410000; // kHz
    case 14: return 512; // alignment of textures
    case 15: case 31: case 41: case 78: case 79: case 80: return 1; // overlap, kernels at once, one address space, …
    case 16: return hopper ? 132 : 108; // multiprocessors
    case 17: case 18: case 20: case 32: case 35: case 115: return 0; // time limit, integrated, mode, ECC, TCC, pools
    case 19: return 1; // mapped host memory
    case 33: return 1 + device; // PCI bus
    case 34: case 50: return 0; // PCI device, domain
    case 36: return hopper ? 2619000 : 1593000; // kHz of memory
    case 37: return 5120; // bits of its bus
    case 38: return hopper ? 50 << 20 : 40 << 20; // L2 cache
    case 39: return 2048; // threads of a multiprocessor
    case 40: return 3; // copy engines
    case 75: return settings().capability / 10;
    case 76: return settings().capability % 10;
    case 81: return hopper ? 228 << 10 : 164 << 10; // shared memory of a multiprocessor
    case 97: return hopper ? 227 << 10 : 163 << 10; // of a block that asks for it
    case 106: return 32; // blocks of a multiprocessor
    default: return -1;
    }
}

} // namespace driver

EXPORTED int cuInit(unsigned flags) {
    ENTER;
    if (flags != 0)
        return complain(__func__, INVALID_VALUE, "flags must be 0");
    if (settings().devices == 0)
        return NO_DEVICE;
    static Context *all = [] {
        auto *made = new Context[size_t(settings().devices)];
        for (int i = 0; i < settings().devices; i++)
            made[i].device = i;
        return made;
    }();
    contexts = all;
    initialised = true;
    return SUCCESS;
}

EXPORTED int cuDriverGetVersion(int *version) {
    ENTER;
    *version = 13000;
    return SUCCESS;
}

EXPORTED int cuDeviceGetCount(int *count) {
    ENTER;
    if (!initialised)
        return complain(__func__, NOT_INITIALIZED, "before cuInit");
    *count = settings().devices;
    return SUCCESS;
}

EXPORTED int cuDeviceGet(int *found, int device) {
    ENTER_DEVICE;
    *found = device;
    return SUCCESS;
}

EXPORTED int cuDeviceGetName(char *name, int bytes, int device) {
    ENTER_DEVICE;
    std::snprintf(name, size_t(bytes), "%s", settings().name.c_str());
    return SUCCESS;
}

EXPORTED int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    ENTER_DEVICE;
    *bytes = settings().memory;
    return SUCCESS;
}

EXPORTED int cuDeviceGetAttribute(int *value, int which, int device) {
    ENTER_DEVICE;
    int known = attribute(which, device);
    if (known < 0)
        return complain(__func__, INVALID_VALUE, "attribute %d is unknown here", which);
    *value = known;
    return SUCCESS;
}

// Equal for all processes of a machine, so that they see when they share a device.
EXPORTED int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    ENTER_DEVICE;
    std::memset(uuid, 0, 16);
    std::memcpy(uuid, "emulated", 8);
    uuid[15] = (unsigned char)(device + 1);
    return SUCCESS;
}
EXPORTED int cuDeviceGetUuid(unsigned char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

EXPORTED int cuDeviceGetPCIBusId(char *id, int bytes, int device) {
    ENTER_DEVICE;
    std::snprintf(id, size_t(bytes), "0000:%02x:00.0", 1 + device);
    return SUCCESS;
}

EXPORTED int cuDevicePrimaryCtxRetain(Context **context, int device) {
    ENTER_DEVICE;
    std::lock_guard<std::mutex> lock(state);
    *context = &contexts[device];
    (*context)->uses++;
    return SUCCESS;
}

EXPORTED int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_DEVICE;
    Context *context = &contexts[device];
    {
        std::lock_guard<std::mutex> lock(state);
        if (context->uses == 0)
            return complain(__func__, INVALID_CONTEXT, "released more often than retained");
        if (--context->uses > 0)
            return SUCCESS;
    }
    drain_all(context);
    forget_memory(device);
    context->failed = 0;
    return SUCCESS;
}

EXPORTED int cuCtxSetCurrent(Context *context) {
    ENTER;
    if (context != nullptr && context->uses == 0)
        return complain(__func__, INVALID_CONTEXT, "a context that was released");
    current_context = context;
    return SUCCESS;
}

EXPORTED int cuCtxGetCurrent(Context **context) {
    ENTER;
    *context = current_context;
    return SUCCESS;
}

EXPORTED int cuCtxGetDevice(int *device) {
    ENTER_CONTEXT;
    *device = context->device;
    return SUCCESS;
}

EXPORTED int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER_CONTEXT;
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

EXPORTED int cuCtxSetFlags(unsigned) {
    ENTER_CONTEXT;
    return SUCCESS;
}

EXPORTED int cuCtxSynchronize() {
    ENTER_CONTEXT;
    drain_all(context);
    return context->failed;
}

struct Named {
    int result;
    const char *name, *text;
};
static const Named ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "part of the memory is registered already"},
    {NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "the memory was not registered"},
    {MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

static int describe(int result, const char **text, const char *Named::*which) {
    for (const Named &error : ERRORS) {
        if (error.result != result)
            continue;
        *text = error.*which;
        return SUCCESS;
    }
    *text = nullptr;
    return INVALID_VALUE;
}

EXPORTED int cuGetErrorName(int result, const char **name) { return describe(result, name, &Named::name); }
EXPORTED int cuGetErrorString(int result, const char **text) { return describe(result, text, &Named::text); }
