/* A disk that takes its time: each fsync and fdatasync waits 100 ms first. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static void wait_first(void) {
    struct timespec pause = {0, 100000000};
    nanosleep(&pause, 0);
}

int fsync(int descriptor) {
    wait_first();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    wait_first();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
