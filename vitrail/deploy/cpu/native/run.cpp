// Calls kernels one after the other, each with its job. Answers with the first one that fails, counted from one.
#include <cstdint>

struct Call {
    int (*kernel)(const void *job, int64_t threads);
    const void *job;
};

extern "C" int64_t run(const Call *calls, int64_t count, int64_t threads) {
    for (int64_t i = 0; i < count; i++)
        if (calls[i].kernel(calls[i].job, threads)) return i + 1;
    return 0;
}
