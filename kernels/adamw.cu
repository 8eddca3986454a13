// AdamW: gradient, weights and moments in one pass, the new weights also rounded into their home copy.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int RUN = 4;

// The largest finite f64.
constexpr double LARGEST = 1.7976931348623157e308;

// Places of the scalars in device memory, as plan::step and plan::stats say.
enum { STEP_LR, STEP_NUMBER, STEP_CLIP, STEP_BOUND };
enum { STATS_LOSS, STATS_SQUARES };

// One step's numbers, the same for all elements.
struct Factors {
    bool applies;          // else the update is left out
    float clip;            // of the gradient
    float keep;            // 1 - lr * weight_decay
    float beta1, beta2;
    float rest1, rest2;    // 1 - beta
    float rate;            // lr / (1 - beta1^t)
    float root;            // 1 / sqrt(1 - beta2^t)
    float eps;
};

__device__ __forceinline__ Factors factors(const double *step, const double *stats, double beta1, double beta2,
                                           double eps, double weight_decay) {
    double lr = step[STEP_LR], number = step[STEP_NUMBER];
    Factors f;
    // As plan::applies: comparisons with NaN are false.
    double loss = stats[STATS_LOSS], squares = stats[STATS_SQUARES];
    f.applies = fabs(loss) <= LARGEST && squares <= LARGEST && squares <= step[STEP_BOUND];
    double clip = step[STEP_CLIP] / (sqrt(stats[STATS_SQUARES]) + 1e-6);
    f.clip = float(clip > 1.0 ? 1.0 : clip);
    f.keep = float(1.0 - lr * weight_decay);
    f.beta1 = float(beta1);
    f.beta2 = float(beta2);
    f.rest1 = float(1.0 - beta1);
    f.rest2 = float(1.0 - beta2);
    f.rate = float(lr / (1.0 - pow(beta1, number)));
    f.root = float(1.0 / sqrt(1.0 - pow(beta2, number)));
    f.eps = float(eps);
    return f;
}

__device__ __forceinline__ void update(const Factors &f, float g, float &w, float &m, float &v) {
    g *= f.clip;
    m = f.beta1 * m + f.rest1 * g;
    v = f.beta2 * v + f.rest2 * (g * g);
    w = w * f.keep - f.rate * (m / (sqrtf(v) * f.root + f.eps));
}

template <class T, bool HOME>
__device__ __forceinline__ void step_elements(const double *step, const double *stats, double beta1, double beta2,
                                              double eps, double weight_decay, const float *gradient, float *master,
                                              float *moment1, float *moment2, T *home, long long n) {
    // Powers in f64 are slow: once a block.
    SHARED(Factors, shared, 1);
    if (threadIdx.x == 0)
        shared[0] = factors(step, stats, beta1, beta2, eps, weight_decay);
    __syncthreads();
    Factors f = shared[0];
    if (!f.applies)
        return;
    long long first = (long long)(blockIdx.x) * (THREADS * RUN) + threadIdx.x * RUN;
    bool aligned = aligned16(gradient) && aligned16(master) && aligned16(moment1) && aligned16(moment2) &&
                   (!HOME || aligned16(home));
    if (aligned && first + RUN <= n) {
        float g[RUN], w[RUN], m[RUN], v[RUN];
        load(gradient + first, g);
        load(master + first, w);
        load(moment1 + first, m);
        load(moment2 + first, v);
        for (int i = 0; i < RUN; i++)
            update(f, g[i], w[i], m[i], v[i]);
        store(master + first, w);
        store(moment1 + first, m);
        store(moment2 + first, v);
        if (HOME)
            store(home + first, w);
        return;
    }
    for (long long i = first; i < first + RUN && i < n; i++) {
        float w = master[i], m = moment1[i], v = moment2[i];
        update(f, gradient[i], w, m, v);
        master[i] = w;
        moment1[i] = m;
        moment2[i] = v;
        if (HOME)
            home[i] = round_to<T>(w);
    }
}

// step[4], stats[2] in f64; all others [n]; weight_decay is 0 where nothing decays. grid ceil(n / 1024).
#define ADAMW(name, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        adamw_home_##name(const double *step, const double *stats, double beta1, double beta2, double eps,             \
                          double weight_decay, const float *gradient, float *master, float *moment1, float *moment2,   \
                          long long n, T *home) {                                                                      \
        step_elements<T, true>(step, stats, beta1, beta2, eps, weight_decay, gradient, master, moment1, moment2, home, \
                               n);                                                                                     \
    }                                                                                                                  \
    EXPORT(adamw_home_##name, THREADS)
FOR_TYPES(ADAMW)

// As above, without a home copy.
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(const double *step, const double *stats, double beta1, double beta2, double eps, double weight_decay,
          const float *gradient, float *master, float *moment1, float *moment2, long long n) {
    step_elements<float, false>(step, stats, beta1, beta2, eps, weight_decay, gradient, master, moment1, moment2,
                                nullptr, n);
}
EXPORT(adamw, THREADS)
