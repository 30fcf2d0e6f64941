/* Loaded into a process with LD_PRELOAD: while the file named by KB_CHAOS_FAIL_FSYNC exists, fsync and fdatasync fail with EIO, as those of a
   disk do that cannot write. Everything else goes through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int broken(void) {
  const char *flag = getenv("KB_CHAOS_FAIL_FSYNC");
  return flag != NULL && access(flag, F_OK) == 0;
}

static int through(const char *name, int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  return real(file);
}

int fsync(int file) {
  if (broken()) {
    errno = EIO;
    return -1;
  }
  return through("fsync", file);
}

int fdatasync(int file) {
  if (broken()) {
    errno = EIO;
    return -1;
  }
  return through("fdatasync", file);
}
