// The floor: what a container's cycle costs at least on this kernel, with nothing but the system calls. No configuration is
// read, no path is checked, no state is kept, no error is explained, so it is not a runtime; it says how far one could get.
//
//   floor ROOTFS CGROUP [program]     CGROUP: "/name", made below each hierarchy of /proc/self/mountinfo, removed at the end
//
// New mount, pid, network, ipc, uts and cgroup namespaces; proc, dev with its nodes, pts, shm, mqueue, sys; pivot_root; the
// masked and read-only paths of Docker's default; loopback up; bounding set dropped; a filter of 400 instructions; exec.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(x) do { if ((x) < 0) { perror(#x); _exit(1); } } while (0)
#define CLONE_INTO_CGROUP_ 0x200000000ULL

static char directories[32][512];
static int count, unified = -1;

static void find_hierarchies(const char* group) {
  FILE* f = fopen("/proc/self/mountinfo", "re");
  char line[2048];
  while (fgets(line, sizeof line, f)) {
    char* type = strstr(line, " - ");
    char at[400];
    if (!type || sscanf(line, "%*s %*s %*s %*s %399s", at) != 1) continue;
    int v2 = !strncmp(type + 3, "cgroup2 ", 8);
    if ((!v2 && strncmp(type + 3, "cgroup ", 7)) || count == 32) continue;
    if (v2) unified = count;
    snprintf(directories[count++], sizeof directories[0], "%s%s", at, group);
  }
  fclose(f);
}

static void child(const char* root, char** program, const int* tasks) {
  for (int i = 0; i < count; ++i)
    if (tasks[i] >= 0) MUST(write(tasks[i], "0", 1));
  MUST(unshare(CLONE_NEWCGROUP));
  MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
  MUST(mount(root, root, 0, MS_BIND | MS_REC, 0));
  MUST(chdir(root));
  MUST(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
  MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
  static const struct { const char* name; int major, minor; } nodes[] = {{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
                                                                      {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
  umask(0);
  for (size_t i = 0; i < sizeof nodes / sizeof *nodes; ++i) MUST(mknod(nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
  symlink("/proc/self/fd", "dev/fd");
  symlink("/proc/self/fd/0", "dev/stdin");
  symlink("/proc/self/fd/1", "dev/stdout");
  symlink("/proc/self/fd/2", "dev/stderr");
  symlink("pts/ptmx", "dev/ptmx");
  mkdir("dev/pts", 0755), mkdir("dev/shm", 0755), mkdir("dev/mqueue", 0755);
  MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
  MUST(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"));
  MUST(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
  MUST(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, 0));
  MUST(syscall(SYS_pivot_root, ".", "."));
  MUST(umount2(".", MNT_DETACH));
  MUST(chdir("/"));
  sethostname("floor", 5);
  static const char* const masked[] = {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                                       "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"};
  for (size_t i = 0; i < sizeof masked / sizeof *masked; ++i)
    if (mount("/dev/null", masked[i], 0, MS_BIND, 0) < 0 && errno == ENOTDIR) MUST(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "size=0"));
  static const char* const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
  for (size_t i = 0; i < sizeof readonly / sizeof *readonly; ++i)
    if (mount(readonly[i], readonly[i], 0, MS_BIND | MS_REC, 0) == 0)
      MUST(mount(0, readonly[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq up = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  MUST(ioctl(s, SIOCSIFFLAGS, &up));
  for (int cap = 0; cap <= 40; ++cap)
    if (!((0x00000000a80425fbULL >> cap) & 1)) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
  static struct sock_filter code[400];
  code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
  for (int i = 1; i < 399; ++i) code[i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1000u + (unsigned)i, 0, 0);
  code[399] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog filter = {400, code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
  static char* const environment[] = {"PATH=/bin", 0};
  execve(program[0], program, environment);
  perror(program[0]);
  _exit(127);
}

int main(int argc, char** argv) {
  static char* def[] = {"/bin/true", 0};
  if (argc < 3) return 2;
  find_hierarchies(argv[2]);
  int tasks[32], v2 = -1;
  for (int i = 0; i < count; ++i) {
    char file[600];
    MUST(mkdir(directories[i], 0755));
    if (i == unified) {
      v2 = open(directories[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      tasks[i] = -1;
      continue;
    }
    if (strstr(directories[i], "/cpuset/")) {  // empty at first
      static const char* const names[] = {"cpuset.cpus", "cpuset.mems"};
      for (int k = 0; k < 2; ++k) {
        char text[256], *parent = strdup(directories[i]);
        *strrchr(parent, '/') = 0;
        snprintf(file, sizeof file, "%s/%s", parent, names[k]);
        int in = open(file, O_RDONLY | O_CLOEXEC);
        ssize_t n = read(in, text, sizeof text);
        close(in);
        snprintf(file, sizeof file, "%s/%s", directories[i], names[k]);
        int out = open(file, O_WRONLY | O_CLOEXEC);
        if (n > 0) MUST(write(out, text, (size_t)n));
        close(out);
        free(parent);
      }
    }
    snprintf(file, sizeof file, "%s/tasks", directories[i]);
    MUST(tasks[i] = open(file, O_WRONLY | O_CLOEXEC));
  }
  struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | (v2 >= 0 ? CLONE_INTO_CGROUP_ : 0),
                            .exit_signal = SIGCHLD, .cgroup = v2 >= 0 ? (uint64_t)v2 : 0};
  long pid = syscall(SYS_clone3, &args, sizeof args);
  MUST(pid);
  if (pid == 0) child(argv[1], argc > 3 ? argv + 3 : def, tasks);
  int status;
  MUST(waitpid((pid_t)pid, &status, 0));
  for (int i = 0; i < count; ++i) MUST(rmdir(directories[i]));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
