// libcublasLt: matrix products in f32 and bf16 with sums in f32, in the stream they are given to.
//
// Kept of the real library: an algorithm is good for the problem it was found for, with operands as aligned as the
// preference said (256 bytes if it says nothing) and the workspace it asked for; the workspace belongs to one product.

#include <cstring>
#include <vector>

#include "bf16.h"
#include "driver.h"

using namespace driver;

namespace {

// cublasStatus_t.
enum Status : int { BLAS_SUCCESS = 0, BLAS_NOT_INITIALIZED = 1, BLAS_INVALID_VALUE = 7, BLAS_FAILED = 13, BLAS_NOT_SUPPORTED = 15 };
// cudaDataType_t.
enum Type : int { F32 = 0, BF16 = 14 };
size_t size_of(int type) { return type == BF16 ? 2 : 4; }

// What the program holds as an opaque block, made by us or lying in its own memory (64 bytes at least).
struct Layout {
    int type, order; // order: 0 columns, 1 rows one after the other
    uint64_t rows, columns;
    int64_t ld;
    int batch;
    int64_t stride;
};
struct Product {
    int compute, scale, pointers, transpose[3], epilogue;
};
struct Preference {
    uint64_t workspace;
    uint32_t alignment[4]; // of A, B, C, D
};
// A problem, as an algorithm remembers it (64 bytes at most).
struct Algorithm {
    uint32_t mark, hash, workspace, alignment[4];
};
constexpr uint32_t MARK = 0x656d7567;
struct Found { // cublasLtMatmulHeuristicResult_t
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int refuse(const char *who, Status status, const char *why) {
    complain(who, INVALID_VALUE, "%s", why);
    return status;
}

// An attribute's place in one of the blocks above.
struct Place {
    void *at;
    size_t bytes;
};
int set(const char *who, Place place, const void *from, size_t bytes) {
    if (!place.at || bytes != place.bytes)
        return refuse(who, place.at ? BLAS_INVALID_VALUE : BLAS_NOT_SUPPORTED, "no such attribute here, or not of this size");
    std::memcpy(place.at, from, bytes);
    return BLAS_SUCCESS;
}

Place place(Layout *l, int attribute) {
    switch (attribute) {
    case 0: return {&l->type, 4};
    case 1: return {&l->order, 4};
    case 2: return {&l->rows, 8};
    case 3: return {&l->columns, 8};
    case 4: return {&l->ld, 8};
    case 5: return {&l->batch, 4};
    case 6: return {&l->stride, 8};
    default: return {nullptr, 0};
    }
}
Place place(Product *p, int attribute) {
    switch (attribute) {
    case 0: return {&p->compute, 4};
    case 1: return {&p->scale, 4};
    case 2: return {&p->pointers, 4};
    case 3: case 4: case 5: return {&p->transpose[attribute - 3], 4};
    case 7: return {&p->epilogue, 4};
    default: return {nullptr, 0};
    }
}

uint32_t hash_of(const Product &p, const Layout *const (&all)[4]) {
    uint64_t hash = 1469598103934665603ull;
    auto mix = [&](uint64_t x) { hash = (hash ^ x) * 1099511628211ull; };
    mix(uint64_t(p.compute));
    mix(uint64_t(p.transpose[0] * 2 + p.transpose[1]));
    for (const Layout *l : all) {
        mix(uint64_t(l->type * 2 + l->order));
        mix(l->rows);
        mix(l->columns);
        mix(uint64_t(l->ld));
        mix(uint64_t(l->batch));
    }
    return uint32_t(hash ^ (hash >> 32));
}

// Why we cannot multiply these, or null.
const char *wrong(const Product &p, const Layout *const (&all)[4]) {
    const Layout &a = *all[0], &b = *all[1], &c = *all[2], &d = *all[3];
    for (const Layout *l : all) {
        if (l->type != F32 && l->type != BF16)
            return "only f32 and bf16 are known here";
        if (l->order != 0 && l->order != 1)
            return "only rows or columns one after the other are known here";
        if (uint64_t(l->ld) < (l->order == 0 ? l->rows : l->columns) || l->rows == 0 || l->columns == 0)
            return "a leading dimension below the length of a row or column, or an empty matrix";
    }
    bool known = p.compute == 68 || p.compute == 69 || p.compute == 74 || p.compute == 75 || p.compute == 77;
    if (!known || p.scale != F32 || p.pointers != 0 || p.epilogue != 1)
        return "only sums in f32, factors on the host and no epilogue are known here";
    if (a.type != b.type || c.type != d.type || (a.type == F32 && d.type != F32))
        return "these types do not go together";
    if (p.transpose[0] > 1 || p.transpose[1] > 1 || p.transpose[2] != 0)
        return "only A and B can be transposed";
    auto rows = [](const Layout &l, int t) { return t ? l.columns : l.rows; };
    auto columns = [](const Layout &l, int t) { return t ? l.rows : l.columns; };
    if (rows(a, p.transpose[0]) != d.rows || columns(b, p.transpose[1]) != d.columns ||
        columns(a, p.transpose[0]) != rows(b, p.transpose[1]) || c.rows != d.rows || c.columns != d.columns)
        return "sizes do not fit";
    if (a.batch != 1 || b.batch != 1 || c.batch != 1 || d.batch != 1)
        return "several products at once are unknown here";
    return nullptr;
}

size_t extent(const Layout &l) {
    uint64_t lines = l.order == 0 ? l.columns : l.rows, length = l.order == 0 ? l.rows : l.columns;
    return (size_t(l.ld) * (lines - 1) + length) * size_of(l.type);
}

float number(const void *p, int type, size_t i) {
    return type == F32 ? static_cast<const float *>(p)[i] : bf16::widen(static_cast<const uint16_t *>(p)[i]);
}

void put(void *p, int type, size_t i, float x) {
    if (type == F32)
        static_cast<float *>(p)[i] = x;
    else
        static_cast<uint16_t *>(p)[i] = bf16::narrow(x);
}

// What tensor cores see of an f32 in the mode for speed: 10 bits of fraction.
float tf32(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The operand as rows x columns in f32, rows one after the other.
std::vector<float> unpack(const void *p, const Layout &l, bool transposed, bool rounded) {
    uint64_t rows = transposed ? l.columns : l.rows, columns = transposed ? l.rows : l.columns;
    bool along = (l.order == 1) != transposed; // neighbours in memory are neighbours in a row
    std::vector<float> all(rows * columns);
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < columns; j++) {
            float x = number(p, l.type, along ? i * uint64_t(l.ld) + j : j * uint64_t(l.ld) + i);
            all[i * columns + j] = rounded ? tf32(x) : x;
        }
    return all;
}

// c += a b, four rows at a time.
__attribute__((target_clones("avx512f", "avx2", "default"))) void multiply(size_t m, size_t n, size_t k,
                                                                           const float *__restrict__ a,
                                                                           const float *__restrict__ b,
                                                                           float *__restrict__ c) {
    constexpr size_t ROWS = 4, WIDTH = 128;
    for (size_t i0 = 0; i0 < m; i0 += ROWS)
        for (size_t j0 = 0; j0 < n; j0 += WIDTH) {
            size_t rows = m - i0 < ROWS ? m - i0 : ROWS, width = n - j0 < WIDTH ? n - j0 : WIDTH;
            float sums[ROWS][WIDTH] = {};
            for (size_t l = 0; l < k; l++)
                for (size_t i = 0; i < rows; i++) {
                    float factor = a[(i0 + i) * k + l];
                    const float *row = b + l * n + j0;
                    for (size_t j = 0; j < width; j++)
                        sums[i][j] += factor * row[j];
                }
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < width; j++)
                    c[(i0 + i) * n + j0 + j] = sums[i][j];
        }
}

// Everything that a queued product needs.
struct Job {
    Product product;
    Layout a, b, c, d;
    const void *pa, *pb, *pc;
    void *pd, *workspace;
    size_t workspace_bytes;
    float alpha, beta;
};

void run(const Job &job, Context *context) {
    // Mine for now: whoever writes there meanwhile shares it without an order.
    static std::atomic<uint64_t> count;
    uint64_t mine = ++count, *mark = static_cast<uint64_t *>(job.workspace);
    if (job.workspace_bytes >= 8)
        *mark = mine;
    bool rounded = job.product.compute == 77 && job.a.type == F32;
    std::vector<float> a = unpack(job.pa, job.a, job.product.transpose[0], rounded);
    std::vector<float> b = unpack(job.pb, job.b, job.product.transpose[1], rounded);
    size_t m = job.d.rows, n = job.d.columns;
    std::vector<float> c(m * n);
    multiply(m, n, a.size() / m, a.data(), b.data(), c.data());
    auto at = [](const Layout &l, size_t i, size_t j) {
        return l.order == 1 ? i * size_t(l.ld) + j : j * size_t(l.ld) + i;
    };
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            float x = job.alpha * c[i * n + j];
            // Without a factor it is not read, whatever it holds.
            if (job.beta != 0)
                x += job.beta * number(job.pc, job.c.type, at(job.c, i, j));
            put(job.pd, job.d.type, at(job.d, i, j), x);
        }
    if (job.workspace_bytes >= 8 && *mark != mine)
        fail(context, LAUNCH_FAILED, "two matrix products shared one workspace at the same time");
}

} // namespace

EXPORTED int cublasLtCreate(void **handle) {
    COUNT;
    if (current() == nullptr)
        return refuse(__func__, BLAS_NOT_INITIALIZED, "this thread has no current context");
    *handle = new int(0);
    return BLAS_SUCCESS;
}
EXPORTED int cublasLtDestroy(void *handle) {
    COUNT;
    delete static_cast<int *>(handle);
    return BLAS_SUCCESS;
}
EXPORTED size_t cublasLtGetVersion() { return 130000; }
EXPORTED size_t cublasLtGetCudartVersion() { return 13000; }
EXPORTED const char *cublasLtGetStatusName(int status) {
    switch (status) {
    case BLAS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case BLAS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case BLAS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case BLAS_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
}
EXPORTED const char *cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }

EXPORTED int cublasLtMatrixLayoutInit_internal(Layout *layout, size_t, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *layout = Layout{type, 0, rows, columns, ld, 1, 0};
    return BLAS_SUCCESS;
}
EXPORTED int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    COUNT;
    *layout = new Layout;
    return cublasLtMatrixLayoutInit_internal(*layout, sizeof(Layout), type, rows, columns, ld);
}
EXPORTED int cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *from, size_t bytes) {
    return set(__func__, place(layout, attribute), from, bytes);
}
EXPORTED int cublasLtMatrixLayoutDestroy(Layout *layout) {
    COUNT;
    delete layout;
    return BLAS_SUCCESS;
}

EXPORTED int cublasLtMatmulDescInit_internal(Product *product, size_t, int compute, int scale) {
    *product = Product{compute, scale, 0, {0, 0, 0}, 1};
    return BLAS_SUCCESS;
}
EXPORTED int cublasLtMatmulDescCreate(Product **product, int compute, int scale) {
    COUNT;
    *product = new Product;
    return cublasLtMatmulDescInit_internal(*product, sizeof(Product), compute, scale);
}
EXPORTED int cublasLtMatmulDescSetAttribute(Product *product, int attribute, const void *from, size_t bytes) {
    return set(__func__, place(product, attribute), from, bytes);
}
EXPORTED int cublasLtMatmulDescDestroy(Product *product) {
    COUNT;
    delete product;
    return BLAS_SUCCESS;
}

EXPORTED int cublasLtMatmulPreferenceInit_internal(Preference *preference, size_t) {
    *preference = Preference{0, {256, 256, 256, 256}};
    return BLAS_SUCCESS;
}
EXPORTED int cublasLtMatmulPreferenceCreate(Preference **preference) {
    COUNT;
    *preference = new Preference;
    return cublasLtMatmulPreferenceInit_internal(*preference, sizeof(Preference));
}
EXPORTED int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *from, size_t bytes) {
    if (attribute == 1)
        return set(__func__, {&preference->workspace, 8}, from, bytes);
    if (attribute >= 5 && attribute <= 8)
        return set(__func__, {&preference->alignment[attribute - 5], 4}, from, bytes);
    // What else one may prefer changes no result.
    return BLAS_SUCCESS;
}
EXPORTED int cublasLtMatmulPreferenceDestroy(Preference *preference) {
    COUNT;
    delete preference;
    return BLAS_SUCCESS;
}

EXPORTED int cublasLtMatmulAlgoGetHeuristic(void *, const Product *product, const Layout *a, const Layout *b, const Layout *c,
                                            const Layout *d, const Preference *preference, int wanted, Found *found,
                                            int *count) {
    COUNT;
    *count = 0;
    const Layout *const all[4] = {a, b, c, d};
    if (const char *why = wrong(*product, all))
        return refuse(__func__, BLAS_NOT_SUPPORTED, why);
    if (wanted < 1)
        return refuse(__func__, BLAS_INVALID_VALUE, "no algorithm asked for");
    auto workspace = uint32_t(preference->workspace < (1 << 20) ? preference->workspace : 1 << 20);
    Algorithm algorithm{MARK, hash_of(*product, all), workspace, {}};
    std::memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
    std::memset(found, 0, sizeof *found);
    std::memcpy(found->algorithm, &algorithm, sizeof algorithm);
    found->workspace = workspace;
    found->waves = 1;
    *count = 1;
    return BLAS_SUCCESS;
}

EXPORTED int cublasLtMatmul(void *handle, const Product *product, const float *alpha, const void *pa, const Layout *a,
                            const void *pb, const Layout *b, const float *beta, const void *pc, const Layout *c, void *pd,
                            const Layout *d, const Algorithm *algorithm, void *workspace, size_t workspace_bytes,
                            void *stream_handle) {
    COUNT;
    Context *context = current();
    if (handle == nullptr || context == nullptr)
        return refuse(__func__, BLAS_NOT_INITIALIZED, "no handle, or this thread has no current context");
    if (context->failed)
        return BLAS_FAILED;
    auto stream = stream_of(__func__, context, stream_handle);
    const Layout *const all[4] = {a, b, c, d};
    const void *pointers[4] = {pa, pb, pc, pd};
    if (const char *why = wrong(*product, all))
        return refuse(__func__, BLAS_INVALID_VALUE, why);
    if (!stream)
        return BLAS_INVALID_VALUE;
    void *there[4] = {};
    for (int i = 0; i < 4; i++) {
        if (algorithm && uintptr_t(pointers[i]) % algorithm->alignment[i] != 0)
            return refuse(__func__, BLAS_INVALID_VALUE, "an operand less aligned than the preference of its algorithm said");
        if (uintptr_t(pointers[i]) % size_of(all[i]->type) != 0)
            return refuse(__func__, BLAS_INVALID_VALUE, "an operand that is not aligned to its type");
        if (i == 2 && *beta == 0)
            continue;
        there[i] = bytes_at(pointers[i], extent(*all[i]));
        if (!there[i])
            return refuse(__func__, BLAS_INVALID_VALUE, "an operand that is not all of one live allocation");
    }
    void *scratch = workspace_bytes ? bytes_at(workspace, workspace_bytes) : nullptr;
    if (workspace_bytes && (!scratch || uintptr_t(workspace) % 256 != 0))
        return refuse(__func__, BLAS_INVALID_VALUE, "a workspace that is no device memory at a multiple of 256 bytes");
    if (algorithm && algorithm->mark != MARK)
        return refuse(__func__, BLAS_INVALID_VALUE, "an algorithm that no heuristic gave");
    if (algorithm && algorithm->hash != hash_of(*product, all))
        return refuse(__func__, BLAS_INVALID_VALUE, "an algorithm that was found for another problem");
    if (algorithm && algorithm->workspace > workspace_bytes)
        return refuse(__func__, BLAS_INVALID_VALUE, "a smaller workspace than the algorithm asked for");
    size_t scribbled = algorithm ? algorithm->workspace : workspace_bytes;
    Job job{*product, *a, *b, *c, *d, there[0], there[1], there[2], there[3], scratch, scribbled, *alpha, *beta};
    give(*stream, Task{"a product", [job, context] { run(job, context); }, false});
    return BLAS_SUCCESS;
}
