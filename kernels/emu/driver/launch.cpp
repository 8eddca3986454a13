// Modules, kernels and their launches. The kernels are those that were compiled into this library; a module says which of
// them it holds.

#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "../emu.h"
#include "../engine.h"
#include "driver.h"

using namespace driver;

namespace driver {

// What a block gets without asking, and what at most.
constexpr unsigned PLENTY_OF_SHARED = 48 << 10;
static unsigned most_shared() { return settings().capability >= 90 ? 227 << 10 : 163 << 10; }

struct Function {
    std::string name;
    const emu::Signature *signature;
    unsigned shared = PLENTY_OF_SHARED; // dynamic, at most
};

struct Module {
    Context *context;
    bool anything; // a real fatbin: we cannot read which kernels it holds
    std::set<std::string> names;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

static std::map<void *, std::unique_ptr<Module>> &modules = *new std::map<void *, std::unique_ptr<Module>>;
static std::map<void *, Context *> &functions = *new std::map<void *, Context *>;
static std::mutex &lock_modules = *new std::mutex;

// The head of a fatbin. Ours have text behind it: this word, then a kernel a line.
struct Head {
    uint32_t magic;
    uint16_t version, bytes;
    uint64_t rest;
};
constexpr uint32_t MAGIC = 0xba55ed50;
constexpr char WORD[] = "emulated\n";

static int load(const char *who, Context *context, void **module, const void *image) {
    Head head;
    std::memcpy(&head, image, sizeof head);
    if (head.magic != MAGIC)
        return complain(who, INVALID_IMAGE, "no fatbin");
    auto made = std::make_unique<Module>();
    made->context = context;
    std::string text(static_cast<const char *>(image) + head.bytes, head.rest);
    made->anything = text.compare(0, sizeof WORD - 1, WORD) != 0;
    if (!made->anything) {
        std::istringstream lines(text.substr(sizeof WORD - 1));
        for (std::string name; std::getline(lines, name);)
            made->names.insert(name);
    }
    std::lock_guard<std::mutex> lock(lock_modules);
    *module = made.get();
    modules[made.get()] = std::move(made);
    return SUCCESS;
}

// A launch with its arguments, which the caller may forget when cuLaunchKernel returns.
struct Launch {
    std::string name;
    EmuLaunch emulated;
    std::vector<uint64_t> values;
    std::vector<void *> args;
    std::vector<EmuBuffer> buffers;
};

// Takes the arguments; says which is wrong, or null.
static const char *take(Launch &launch, const emu::Parameter *parameters, void **given, int device, char (&text)[160]) {
    for (size_t i = 0; parameters[i].bytes != 0; i++) {
        uint64_t value = 0;
        if (parameters[i].bytes > sizeof value)
            return "a parameter of more than 8 bytes";
        std::memcpy(&value, given[i], parameters[i].bytes);
        if (parameters[i].pointer && value != 0) {
            EmuBuffer buffer;
            void *there;
            auto *address = reinterpret_cast<void *>(value);
            if (!allocation_at(address, device, &buffer.start, &there, &buffer.bytes)) {
                std::snprintf(text, sizeof text, "argument %zu (%p) is in no live allocation of device %d", i, address,
                              device);
                return text;
            }
            value = uint64_t(there);
            launch.buffers.push_back(buffer);
        }
        launch.values.push_back(value);
    }
    for (uint64_t &value : launch.values)
        launch.args.push_back(&value);
    return nullptr;
}

static void run(Launch &launch, Context *context) {
    static std::atomic<uint64_t> count;
    launch.emulated.kernel = launch.name.c_str();
    launch.emulated.args = launch.args.data();
    launch.emulated.buffers = launch.buffers.data();
    launch.emulated.buffer_count = uint32_t(launch.buffers.size());
    launch.emulated.seed = settings().seed * 7919 + ++count;
    EmuReport report;
    static Counter conflicts("bank conflicts");
    const char *complaint = emu_launch(&launch.emulated, &report);
    conflicts.add(report.conflicts);
    if (complaint == nullptr)
        return;
    bool misaligned = std::strstr(complaint, "no multiple of") != nullptr;
    bool outside = std::strstr(complaint, "argument") != nullptr;
    fail(context, misaligned ? MISALIGNED_ADDRESS : outside ? ILLEGAL_ADDRESS : LAUNCH_FAILED, "%s", complaint);
}

} // namespace driver

EXPORTED int cuModuleLoadData(void **module, const void *image) {
    ENTER_CONTEXT;
    return load(__func__, context, module, image);
}
EXPORTED int cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void **) {
    ENTER_CONTEXT;
    return load(__func__, context, module, image);
}
EXPORTED int cuModuleLoadFatBinary(void **module, const void *image) {
    ENTER_CONTEXT;
    return load(__func__, context, module, image);
}

EXPORTED int cuModuleLoad(void **module, const char *path) {
    ENTER_CONTEXT;
    std::ifstream file(path, std::ios::binary);
    std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (image.size() < sizeof(Head))
        return complain(__func__, INVALID_IMAGE, "%s cannot be read", path);
    return load(__func__, context, module, image.data());
}

EXPORTED int cuModuleUnload(void *module) {
    ENTER_CONTEXT;
    drain_all(context);
    std::lock_guard<std::mutex> lock(lock_modules);
    auto found = modules.find(module);
    if (found == modules.end())
        return complain(__func__, INVALID_HANDLE, "no such module: never loaded, or unloaded");
    for (auto &[name, function] : found->second->functions)
        functions.erase(function.get());
    modules.erase(found);
    return SUCCESS;
}

EXPORTED int cuModuleGetFunction(void **function, void *handle, const char *name) {
    ENTER_CONTEXT;
    std::lock_guard<std::mutex> lock(lock_modules);
    auto found = modules.find(handle);
    if (found == modules.end())
        return complain(__func__, INVALID_HANDLE, "no such module: never loaded, or unloaded");
    Module &module = *found->second;
    const emu::Signature *signature = emu::signature(name);
    if (!signature || (!module.anything && module.names.count(name) == 0))
        return NOT_FOUND;
    auto &made = module.functions[name];
    if (!made) {
        made = std::make_unique<Function>(Function{name, signature});
        functions[made.get()] = module.context;
    }
    *function = made.get();
    return SUCCESS;
}

static Function *function_of(const char *who, Context *context, void *handle) {
    std::lock_guard<std::mutex> lock(lock_modules);
    auto found = functions.find(handle);
    if (found == functions.end())
        complain(who, INVALID_HANDLE, "no such function: never looked up, or unloaded");
    else if (found->second != context)
        complain(who, INVALID_HANDLE, "a function of device %d, while device %d is current", found->second->device,
                 context->device);
    else
        return static_cast<Function *>(handle);
    return nullptr;
}

// Of CUfunction_attribute: what the emulator can know.
EXPORTED int cuFuncGetAttribute(int *value, int attribute, void *handle) {
    ENTER_CONTEXT;
    Function *function = function_of(__func__, context, handle);
    if (!function)
        return INVALID_HANDLE;
    switch (attribute) {
    case 0: *value = int(function->signature->threads); return SUCCESS;
    case 3: *value = 0; return SUCCESS; // local memory of a thread
    case 8: *value = int(function->shared); return SUCCESS;
    default: return complain(__func__, NOT_SUPPORTED, "attribute %d is unknown here", attribute);
    }
}

EXPORTED int cuFuncSetAttribute(void *handle, int attribute, int value) {
    ENTER_CONTEXT;
    Function *function = function_of(__func__, context, handle);
    if (!function)
        return INVALID_HANDLE;
    if (attribute == 9) // the share of a multiprocessor's memory that is not cache: a hint
        return SUCCESS;
    if (attribute != 8)
        return complain(__func__, INVALID_VALUE, "attribute %d cannot be set", attribute);
    if (value < 0 || unsigned(value) > most_shared())
        return complain(__func__, INVALID_VALUE, "%s: %d bytes of shared memory; a block has at most %u",
                        function->name.c_str(), value, most_shared());
    function->shared = unsigned(value);
    return SUCCESS;
}
EXPORTED int cuFuncSetCacheConfig(void *, int) {
    ENTER_CONTEXT;
    return SUCCESS;
}

EXPORTED int cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                            unsigned block_y, unsigned block_z, unsigned shared, void *stream_handle, void **arguments,
                            void **extra) {
    ENTER_CONTEXT;
    Function *function = function_of(__func__, context, handle);
    auto stream = stream_of(__func__, context, stream_handle);
    if (!function || !stream)
        return INVALID_HANDLE;
    const char *name = function->name.c_str();
    if (extra != nullptr || arguments == nullptr)
        return complain(__func__, NOT_SUPPORTED, "%s: arguments other than by their addresses", name);
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535)
        return complain(__func__, INVALID_VALUE, "%s: a grid of %u x %u x %u blocks", name, grid_x, grid_y, grid_z);
    if (block_x != function->signature->threads || block_y != 1 || block_z != 1)
        return complain(__func__, INVALID_VALUE, "%s: a block of %u x %u x %u threads; it was written for %u", name, block_x,
                        block_y, block_z, function->signature->threads);
    if (shared > function->shared)
        return complain(__func__, INVALID_VALUE, "%s: %u bytes of shared memory, of which it may have %u: set its attribute",
                        name, shared, function->shared);
    auto launch = std::make_shared<Launch>();
    launch->name = function->name;
    launch->emulated.grid[0] = grid_x;
    launch->emulated.grid[1] = grid_y;
    launch->emulated.grid[2] = grid_z;
    launch->emulated.block = block_x;
    launch->emulated.shared = shared;
    char text[160];
    if (const char *wrong = take(*launch, function->signature->parameters, arguments, context->device, text)) {
        fail(context, ILLEGAL_ADDRESS, "%s: %s", name, wrong);
        return ILLEGAL_ADDRESS;
    }
    give(*stream, Task{"a kernel", [launch, context] { run(*launch, context); }, false});
    return SUCCESS;
}
