/* Count the instructions that an emulated Arm program executes between two calls of getppid, which
 * no program makes by itself: a TCG plugin for qemu-user.
 *   gcc -shared -fPIC -O2 -o icount.so icount.c
 *   QEMU_PLUGIN=./icount.so ICOUNT_OUT=counts qemu-aarch64 -L ROOT ROOT/usr/bin/python3 ...
 * leaves one count a line, in their order. Counts are not times: they know no cache and no
 * pipeline. They repeat, which times don't.
 * Debian has no header of plugins; these declarations are those of API version 1.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum { CB_NO_REGS = 0 };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*udata_cb)(qemu_plugin_id_t, void *);
typedef void (*exec_cb)(unsigned int cpu, void *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int cpu, int64_t number, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_cb, int flags, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, udata_cb, void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MOST = 4096, GETPPID = 173 /* of arm64 */ };
static uint64_t count, seen[MOST];
static size_t marks;

static void executed(unsigned int cpu, void *instructions) {
  (void)cpu;
  __atomic_fetch_add(&count, (uint64_t)(uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  void *instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, CB_NO_REGS, instructions);
}

/* A system call ends its block, so that all before it is counted and nothing behind it. */
static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b,
                   uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == GETPPID && marks < MOST) seen[marks++] = __atomic_load_n(&count, __ATOMIC_RELAXED);
}

static void ended(qemu_plugin_id_t id, void *unused) {
  (void)id, (void)unused;
  const char *path = getenv("ICOUNT_OUT");
  FILE *out = path ? fopen(path, "w") : stderr;
  if (!out) return;
  for (size_t mark = 1; mark < marks; mark++)
    fprintf(out, "%" PRIu64 "\n", seen[mark] - seen[mark - 1]);
  if (path) fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const void *info, int argc,
                                                               char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
