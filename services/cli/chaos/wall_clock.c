/* Loaded into a process with LD_PRELOAD: the wall clock is as many seconds off as the file named by KB_CHAOS_CLOCK says (8 bytes, a signed number in
   the machine's byte order), which may be changed at any time. Every other clock, and waiting, stays as it is: so does the machine when somebody
   sets its clock. (libfaketime 0.9.10 would do the same, but waits wrongly: Python 3.11's time.sleep then fails with EINVAL.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t offset(void) {
  static const int64_t none = 0;
  static const volatile int64_t *shared = NULL;
  if (shared == NULL) {
    const char *path = getenv("KB_CHAOS_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    shared = page == MAP_FAILED ? &none : page;
  }
  return *shared;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *) = NULL;
  if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  static int (*real)(struct timeval *, void *) = NULL;
  if (real == NULL) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(now, zone);
  if (result == 0 && now != NULL) now->tv_sec += offset();
  return result;
}

time_t time(time_t *where) {
  static time_t (*real)(time_t *) = NULL;
  if (real == NULL) real = (time_t (*)(time_t *))dlsym(RTLD_NEXT, "time");
  time_t now = real(NULL) + offset();
  if (where != NULL) *where = now;
  return now;
}
