// Prints what a process sees of itself, one fact a line ("name=value"), for tests that compare containers. Static, so that it
// runs in an empty root filesystem.
//
//   facts [group ...]     process ids caps limits sched ns mounts dev fds tty keyring cgroup sysctl NAME
//                         default: all but sysctl
//   facts --then SECONDS  prints all, then sleeps (a container to exec into)
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

extern char** environ;

static char text[1 << 16];

static int lines;  // keep line ends

static const char* Slurp(const char* path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    snprintf(text, sizeof text, "(%s)", strerrorname_np(errno));
    return text;
  }
  size_t n = 0;
  ssize_t got;
  while (n < sizeof text - 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0) n += (size_t)got;
  close(fd);
  while (n > 0 && isspace((unsigned char)text[n - 1])) n--;
  text[n] = 0;
  for (char* p = text; *p; p++)
    if (*p == '\n' && !lines) *p = ';';
  return text;
}

static int ByText(const void* a, const void* b) { return strcmp(*(char* const*)a, *(char* const*)b); }

static void Process(int argc, char** argv) {
  char buffer[4096];
  for (int i = 0; i < argc; i++) printf("arg.%d=%s\n", i, argv[i]);
  for (char** e = environ; *e; e++) printf("env.%s\n", *e);
  printf("cwd=%s\n", getcwd(buffer, sizeof buffer) ? buffer : strerrorname_np(errno));
  struct utsname name;
  uname(&name);
  printf("hostname=%s\ndomainname=%s\nmachine=%s\n", name.nodename, name.domainname, name.machine);
  printf("pid=%d\nsession.leader=%d\nprocess_group.leader=%d\n", getpid(), getsid(0) == getpid(), getpgrp() == getpid());
  int death = -1;
  prctl(PR_GET_PDEATHSIG, &death);
  printf("pdeathsig=%d\ndumpable=%d\nno_new_privs=%d\nseccomp=%d\nkeepcaps=%d\nsecurebits=%d\n", death, prctl(PR_GET_DUMPABLE),
         prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_SECUREBITS));
  printf("subreaper=%d\n", ({ int r = -1; prctl(PR_GET_CHILD_SUBREAPER, &r); r; }));
  printf("oom_score_adj=%s\n", Slurp("/proc/self/oom_score_adj"));
  printf("label=%s\n", Slurp("/proc/self/attr/current"));
  FILE* status = fopen("/proc/self/status", "re");
  while (status && fgets(text, sizeof text, status))
    if (!strncmp(text, "Sig", 3) || !strncmp(text, "ShdPnd", 6)) {
      text[strcspn(text, "\n")] = 0;
      if (!strncmp(text, "SigQ", 4)) continue;
      char* colon = strchr(text, ':');
      *colon = 0;
      printf("signals.%s=%s\n", text, colon + 2);
    }
  if (status) fclose(status);
  printf("personality=%#x\n", (unsigned)personality(0xffffffff));
}

static void Ids(void) {
  uid_t r, e, s;
  getresuid(&r, &e, &s);
  printf("uid=%u %u %u\n", r, e, s);
  getresgid(&r, &e, &s);
  printf("gid=%u %u %u\n", r, e, s);
  gid_t groups[256];
  int n = getgroups(256, groups);
  printf("groups=");
  for (int i = 0; i < n; i++) printf("%s%u", i ? " " : "", groups[i]);
  mode_t mask = umask(0);
  umask(mask);
  printf("\numask=%04o\n", mask);
  printf("uid_map=%s\n", Slurp("/proc/self/uid_map"));
  printf("gid_map=%s\n", Slurp("/proc/self/gid_map"));
  printf("setgroups=%s\n", Slurp("/proc/self/setgroups"));
}

static void Caps(void) {
  FILE* status = fopen("/proc/self/status", "re");
  while (status && fgets(text, sizeof text, status))
    if (!strncmp(text, "Cap", 3)) {
      text[strcspn(text, "\n")] = 0;
      char* colon = strchr(text, ':');
      *colon = 0;
      printf("cap.%s=%s\n", text + 3, colon + 2);
    }
  if (status) fclose(status);
}

static void Limits(void) {
  static const char* const kNames[] = {"CPU",     "FSIZE", "DATA",       "STACK",    "CORE", "RSS",    "NPROC", "NOFILE",
                                       "MEMLOCK", "AS",    "LOCKS",      "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
  for (int i = 0; i < 16; i++) {
    struct rlimit limit;
    getrlimit(i, &limit);
    printf("rlimit.%s=%lld %lld\n", kNames[i], (long long)limit.rlim_cur, (long long)limit.rlim_max);
  }
}

struct attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

static void Sched(void) {
  struct attributes a = {.size = sizeof a};
  if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0)
    printf("sched.policy=%u\nsched.flags=%#llx\nsched.nice=%d\nsched.priority=%u\n", a.policy, (unsigned long long)a.flags,
           a.nice, a.priority);
  printf("ioprio=%#lx\n", syscall(SYS_ioprio_get, 1, 0));
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  printf("cpus=");
  for (int i = 0, first = 1; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &set)) printf(first ? "%d" : ",%d", i), first = 0;
  int mode = -1;
  unsigned long nodes[16] = {0};
  syscall(SYS_get_mempolicy, &mode, nodes, sizeof nodes * 8, 0, 0);
  printf("\nmempolicy=%d %#lx\n", mode, nodes[0]);
  printf("timens_offsets=");
  lines = 1;
  for (char* line = strtok(strdup(Slurp("/proc/self/timens_offsets")), "\n"); line; line = strtok(NULL, "\n")) {
    char clock[32] = "";
    long long seconds = 0, nanoseconds = 0;
    sscanf(line, "%31s %lld %lld", clock, &seconds, &nanoseconds);
    printf("%s %lld.%09lld;", clock, seconds, nanoseconds);
  }
  lines = 0;
  printf("\n");
}

static void Namespaces(void) {
  static const char* const kNames[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  for (unsigned i = 0; i < 8; i++) {
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", kNames[i]);
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[n < 0 ? 0 : n] = 0;
    printf("ns.%s=%s\n", kNames[i], link);
  }
  int fd = socket(2, 2 | SOCK_CLOEXEC, 0);
  struct {
    char name[16];
    short flags;
    char rest[22];
  } request = {.name = "lo"};
  if (fd >= 0 && ioctl(fd, 0x8913 /* SIOCGIFFLAGS */, &request) == 0) printf("lo.up=%d\n", request.flags & 1);
  close(fd);
  DIR* dir = opendir("/sys/class/net");
  char* names[64];
  int count = 0;
  for (struct dirent* e; dir && count < 64 && (e = readdir(dir));)
    if (e->d_name[0] != '.') names[count++] = strdup(e->d_name);
  if (dir) closedir(dir);
  qsort(names, (size_t)count, sizeof *names, ByText);
  printf("net.devices=");
  for (int i = 0; i < count; i++) printf("%s%s", i ? "," : "", names[i]);
  printf("\n");
}

static void Mounts(void) {
  FILE* f = fopen("/proc/self/mountinfo", "re");
  char line[8192];
  while (f && fgets(line, sizeof line, f)) {
    char *save, *field[64], *dash = NULL;
    int n = 0, at = 0;
    for (char* word = strtok_r(line, " \n", &save); word && n < 64; word = strtok_r(NULL, " \n", &save)) field[n++] = word;
    for (at = 6; at < n && strcmp(field[at], "-"); at++) {
    }
    if (at + 3 >= n) continue;
    dash = field[at];
    (void)dash;
    printf("mount.%s=%s %s root=%s propagation=", field[4], field[at + 1], field[5], field[3]);
    if (at == 6) printf("private");
    for (int i = 6; i < at; i++) {
      char* colon = strchr(field[i], ':');
      if (colon) *colon = 0;
      printf("%s%s", i > 6 ? "," : "", field[i]);
    }
    printf(" super=%s\n", field[at + 3]);
  }
  if (f) fclose(f);
}

static void Tree(const char* path) {
  struct dirent** entries;
  int n = scandir(path, &entries, NULL, alphasort);
  for (int i = 0; i < n; i++) {
    const char* name = entries[i]->d_name;
    if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
    char full[4096], link[4096];
    snprintf(full, sizeof full, "%s/%s", path, name);
    struct stat st;
    if (lstat(full, &st) < 0) continue;
    printf("file.%s=%06o %u:%u", full, st.st_mode, st.st_uid, st.st_gid);
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) printf(" dev=%u:%u", major(st.st_rdev), minor(st.st_rdev));
    if (S_ISLNK(st.st_mode)) {
      ssize_t size = readlink(full, link, sizeof link - 1);
      link[size < 0 ? 0 : size] = 0;
      printf(" -> %s", link);
    }
    printf("\n");
    if (S_ISDIR(st.st_mode) && strcmp(name, "pts") && strcmp(name, "mqueue")) Tree(full);
  }
}

static void Descriptors(void) {
  DIR* dir = opendir("/proc/self/fd");
  for (struct dirent* e; dir && (e = readdir(dir));) {
    int fd = atoi(e->d_name);
    if (!isdigit((unsigned char)e->d_name[0]) || fd == dirfd(dir)) continue;
    char path[64], link[512];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[n < 0 ? 0 : n] = 0;
    char* bracket = strchr(link, '[');
    if (bracket) *bracket = 0;
    printf("fd.%d=%s flags=%#o\n", fd, link, fcntl(fd, F_GETFL));
  }
  if (dir) closedir(dir);
}

static void Terminal(void) {
  struct winsize size = {0};
  printf("tty=%d%d%d\n", isatty(0), isatty(1), isatty(2));
  if (ioctl(0, TIOCGWINSZ, &size) == 0) printf("tty.size=%ux%u\n", size.ws_row, size.ws_col);
  int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
  printf("tty.controlling=%s\n", fd >= 0 ? "yes" : strerrorname_np(errno));
  struct stat st;
  if (isatty(0) && fstat(0, &st) == 0) printf("tty.owner=%u:%u mode=%o\n", st.st_uid, st.st_gid, st.st_mode & 0777);
  if (stat("/dev/console", &st) == 0) printf("console=%06o major=%u\n", st.st_mode, major(st.st_rdev));
}

static void Keyring(void) {
  char buffer[256];
  long n = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, buffer, sizeof buffer - 1, 0);
  if (n < 0) {
    printf("keyring=(%s)\n", strerrorname_np(errno));
    return;
  }
  buffer[n < 255 ? n : 255] = 0;
  printf("keyring=%s\n", buffer);
}

static void Cgroup(void) {
  lines = 1;
  char* all = strdup(Slurp("/proc/self/cgroup"));
  lines = 0;
  char* save;
  for (char* line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    char* name = strchr(line, ':');
    char* path = name ? strchr(name + 1, ':') : NULL;
    if (!path) continue;
    *path = 0;
    printf("cgroup.%s=%s\n", name[1] ? name + 1 : "unified", path + 1);
  }
}

int main(int argc, char** argv) {
  static const char* const kAll[] = {"process", "ids", "caps", "limits", "sched", "ns", "mounts", "dev", "fds", "tty", "keyring", "cgroup"};
  setvbuf(stdout, NULL, _IOFBF, 1 << 20);
  int seconds = 0, first = 1;
  if (argc > 2 && !strcmp(argv[1], "--then")) seconds = atoi(argv[2]), first = 3;
  int all = first >= argc;
  int count = all ? 12 : argc - first;
  for (int i = 0; i < count; i++) {
    const char* group = all ? kAll[i] : argv[first + i];
    if (!strcmp(group, "process")) Process(argc, argv);
    else if (!strcmp(group, "ids")) Ids();
    else if (!strcmp(group, "caps")) Caps();
    else if (!strcmp(group, "limits")) Limits();
    else if (!strcmp(group, "sched")) Sched();
    else if (!strcmp(group, "ns")) Namespaces();
    else if (!strcmp(group, "mounts")) Mounts();
    else if (!strcmp(group, "dev")) Tree("/dev");
    else if (!strcmp(group, "fds")) Descriptors();
    else if (!strcmp(group, "tty")) Terminal();
    else if (!strcmp(group, "keyring")) Keyring();
    else if (!strcmp(group, "cgroup")) Cgroup();
    else if (!strcmp(group, "sysctl") && i + 1 < count) {
      char path[256];
      snprintf(path, sizeof path, "/proc/sys/%s", argv[first + ++i]);
      printf("sysctl.%s=%s\n", argv[first + i], Slurp(path));
    } else {
      fprintf(stderr, "facts: unknown group %s\n", group);
      return 2;
    }
  }
  fflush(stdout);
  if (seconds) sleep((unsigned)seconds);
  return 0;
}
