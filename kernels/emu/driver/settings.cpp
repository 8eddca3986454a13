// Settings from the environment, counters, complaints.

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace driver {

thread_local bool in_callback;

static std::string text_from(const char *variable, const std::string &otherwise) {
    const char *text = std::getenv(variable);
    return text && *text ? text : otherwise;
}

long number_from(const char *variable, long otherwise) {
    const char *text = std::getenv(variable);
    if (!text || !*text)
        return otherwise;
    char *end;
    long value = std::strtol(text, &end, 10);
    if (*end != 0) {
        std::fprintf(stderr, "emulated GPU: %s=%s is no number\n", variable, text);
        std::exit(2);
    }
    return value;
}

uint64_t number_of_rank(const std::string &text) {
    size_t colon = text.find(':');
    if (colon != std::string::npos && text.substr(colon + 1) != settings().rank)
        return 0;
    return std::strtoull(text.c_str(), nullptr, 10);
}

static std::string rank_of_process() {
    for (const char *variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
        if (const char *rank = std::getenv(variable))
            return rank;
    // Started without a launcher: the only rank.
    return "0";
}

const Settings &settings() {
    static const Settings *all = [] {
        auto *s = new Settings;
        s->devices = int(number_from("EMU_DEVICES", 1));
        s->memory = size_t(number_from("EMU_MEMORY", 8192)) << 20;
        s->capability = int(number_from("EMU_CAPABILITY", 90));
        s->name = text_from("EMU_NAME", "Emulated GPU");
        s->holds = number_from("EMU_ORDER", 1) != 0;
        s->seed = uint64_t(number_from("EMU_SEED", 1));
        s->report = text_from("EMU_REPORT", "");
        s->hang = text_from("EMU_HANG", "");
        s->rank = rank_of_process();
        return s;
    }();
    return *all;
}

uint64_t random_below(uint64_t &state, uint64_t bound) {
    state += 0x9e3779b97f4a7c15ull;
    uint64_t x = state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return ((x ^ (x >> 31)) >> 16) % bound;
}

static std::mutex &counters_lock = *new std::mutex;
static Counter *counters;

static void write_report() {
    std::string path = settings().report + "." + settings().rank;
    FILE *file = std::fopen(path.c_str(), "w");
    if (!file)
        return;
    std::lock_guard<std::mutex> lock(counters_lock);
    std::fprintf(file, "{");
    for (Counter *c = counters; c; c = c->next)
        std::fprintf(file, "%s\n  \"%s\": %llu", c == counters ? "" : ",", c->name, (unsigned long long)c->value.load());
    std::fprintf(file, "\n}\n");
    std::fclose(file);
}

// Which call of this function never returns.
static uint64_t hang_of(const std::string &name) {
    const std::string &hang = settings().hang;
    uint64_t number = hang.rfind(name + ":", 0) == 0 ? number_of_rank(hang.substr(name.size() + 1)) : 0;
    return number > 0 ? number : ~uint64_t(0);
}

void Counter::never_return() {
    for (;;)
        pause();
}

Counter::Counter(const char *name) : name(name), hangs_at(hang_of(name)) {
    std::lock_guard<std::mutex> lock(counters_lock);
    if (!counters && !settings().report.empty())
        std::atexit(write_report);
    next = counters;
    counters = this;
}

static void say(const char *who, const char *format, va_list args) {
    char text[1024];
    std::vsnprintf(text, sizeof text, format, args);
    // One write, so that ranks do not mix their lines.
    std::fprintf(stderr, "emulated GPU, rank %s: %s: %s\n", settings().rank.c_str(), who, text);
}

Result complain(const char *who, Result result, const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(who, format, args);
    va_end(args);
    static Counter complaints("complaints");
    complaints.add();
    return result;
}

void fail(Context *context, Result result, const char *format, ...) {
    int none = 0;
    if (!context->failed.compare_exchange_strong(none, int(result)))
        return;
    va_list args;
    va_start(args, format);
    say("the context has failed", format, args);
    va_end(args);
    static Counter failures("failures");
    failures.add();
}

} // namespace driver
