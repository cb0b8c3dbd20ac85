#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "runtime/init/child.h"
#include "runtime/init/clone.h"
#include "runtime/init/kernel.h"
#include "runtime/init/text.h"

namespace berth::init {
namespace {

bool IsNull(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == ((1 << 8) | 3); }

// A new open file of the container's own null device; -1 when it has none.
int OpenNull(const Child& child) {
  int fd = static_cast<int>(OpenAt2(AT_FDCWD, "/dev/null", O_RDWR | O_NOCTTY | O_NONBLOCK, RESOLVE_NO_MAGICLINKS));
  struct stat st;
  if (fd < 0 || fstat(fd, &st) < 0 || !IsNull(st)) {
    if (fd >= 0) close(fd);
    return -1;
  }
  fcntl(fd, F_SETFL, 0);
  (void)child;
  return fd;
}

struct rlimit64_ {
  uint64_t soft, hard;
};

long Prlimit(unsigned resource, const rlimit64_* set, rlimit64_* old) {
  return syscall(SYS_prlimit64, 0, resource, set, old);
}

// A hard limit that cannot be raised (no CAP_SYS_RESOURCE) is kept and said: the process is better off than without.
void SetLimit(const Child& child, const Limit& limit, uint64_t least_soft) {
  rlimit64_ want{limit.soft < least_soft ? least_soft : limit.soft, limit.hard < least_soft ? least_soft : limit.hard};
  if (Prlimit(limit.resource, &want, nullptr) == 0) return;
  Line<32> name;
  name.text << limit.resource;
  rlimit64_ now{};
  if (errno != EPERM || Prlimit(limit.resource, nullptr, &now) < 0) Fail(child, errno, "set rlimit ", name.bytes);
  rlimit64_ clamped{want.soft < now.hard ? want.soft : now.hard, want.hard < now.hard ? want.hard : now.hard};
  if (Prlimit(limit.resource, &clamped, nullptr) < 0) Fail(child, errno, "set rlimit ", name.bytes);
  Line<32> got;
  got.text << static_cast<unsigned long>(clamped.hard);
  if (least_soft == 0 || limit.hard > now.hard)
    Warn(child, 0, "rlimit ", name.bytes, " kept at the hard limit of this host");
}

void WriteProc(Child& child, const char* path, uint64_t resolve, const char* a, const char* b, bool soft,
               const char* what) {
  int fd = static_cast<int>(OpenAt2(ProcOf(child), path, O_WRONLY, resolve | RESOLVE_BENEATH | RESOLVE_NO_XDEV));
  if (fd < 0) Fail(child, errno, what, ": open /proc/", path);
  if (FilesystemMagic(fd) != kProcMagic) Fail(child, 0, what, ": not in procfs: ", path);
  char value[4096];
  Text text(value, sizeof value);
  text << a << b;
  size_t n = strlen(value);
  if (write(fd, value, n) != static_cast<ssize_t>(n)) {
    if (!soft || (errno != EACCES && errno != EPERM)) Fail(child, errno, what, ": write ", value);
    Warn(child, errno, what, " ", value);
  }
  close(fd);
}

void WriteOwn(Child& child, const char* file, const char* a, const char* b, bool soft, const char* what) {
  Line<64> path;
  path.text << static_cast<int>(syscall(SYS_getpid)) << "/" << file;
  WriteProc(child, path.bytes, RESOLVE_NO_SYMLINKS, a, b, soft, what);
}

__user_cap_data_struct* Split(uint64_t effective, uint64_t permitted, uint64_t inheritable,
                              __user_cap_data_struct* out) {
  for (int i = 0; i < 2; ++i) {
    out[i].effective = static_cast<uint32_t>(effective >> (32 * i));
    out[i].permitted = static_cast<uint32_t>(permitted >> (32 * i));
    out[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
  }
  return out;
}

constexpr uint64_t kSysAdmin = 1ULL << CAP_SYS_ADMIN;

bool Access(const char* path, int* err) {
  struct stat st;
  if (stat(path, &st) < 0) {
    *err = errno;
    return false;
  }
  if (S_ISDIR(st.st_mode)) {
    *err = EISDIR;
    return false;
  }
  long r = syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, 0x200 /* AT_EACCESS */);
  if (r < 0 && errno == ENOSYS) r = access(path, X_OK);
  if (r < 0) *err = errno;
  return r == 0;
}

// Go's spelling of errno texts: clients search for these words, in lower case.
const char* Lower(int err) {
  switch (err) {
    case ENOENT:
    case ENOTDIR:
      return err == ENOENT ? "no such file or directory" : "not a directory";
    case EACCES:
    case EPERM:
      return err == EACCES ? "permission denied" : "operation not permitted";
    case EISDIR:
      return "is a directory";
    case ENOEXEC:
      return "exec format error";
    case ELOOP:
      return "too many levels of symbolic links";
    case ENAMETOOLONG:
      return "file name too long";
    case E2BIG:
      return "argument list too long";
    case ETXTBSY:
      return "text file busy";
    case ENOMEM:
      return "cannot allocate memory";
    case EAGAIN:
      return "resource temporarily unavailable";
    default:
      return strerror(err);
  }
}

// What execvp would run, decided now so that the error belongs to Create.
void LookUp(Child& child, const char* name, char* path, size_t size) {
  if (!*name) Fail(child, 0, "exec: \"\": executable file not found in $PATH", "", "", "", 1);
  int err = ENOENT;
  if (strchr(name, '/')) {
    if (strlen(name) >= size) Fail(child, 0, "exec: \"", name, "\": file name too long", "", 1);
    strcpy(path, name);
    if (Access(path, &err)) return;
    Line<240> text;
    text.text << "exec: \"" << name << "\": ";
    if (err != EISDIR && err != EACCES && err != EPERM) text.text << "stat " << name << ": ";
    bool refused = err == EISDIR || err == EACCES || err == EPERM;
    Fail(child, 0, text.bytes, Lower(err), "", "", refused ? 2 : 1);
  }
  const char* list = child.plan->path ? child.String(child.plan->path) : "/bin:/usr/bin";
  size_t n = strlen(name);
  for (const char* p = list; *p || p == list;) {
    const char* end = strchr(p, ':');
    size_t length = end ? static_cast<size_t>(end - p) : strlen(p);
    if (length == 0) {
      if (n + 3 < size) {
        strcpy(path, "./");
        strcat(path, name);
        if (Access(path, &err)) return;
      }
    } else if (length + n + 2 < size) {
      memcpy(path, p, length);
      path[length] = '/';
      strcpy(path + length + 1, name);
      if (Access(path, &err)) return;
    }
    if (!end) break;
    p = end + 1;
  }
  Fail(child, 0, "exec: \"", name, "\": executable file not found in $PATH", "", 1);
}

// HOME of a user, by the container's own /etc/passwd ("name:x:uid:gid:comment:home:shell"), "/" when it says nothing:
// what runc and crun put into an environment without one, and what images rely on. Called as that user.
void FindHome(uint32_t uid, char* home, size_t size) {
  Text(home, size) << "HOME=/";
  int fd = static_cast<int>(OpenAt2(AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK, RESOLVE_NO_MAGICLINKS));
  if (fd < 0) return;
  struct stat st;
  char buffer[4096], field[512];
  size_t length = 0, total = 0;
  int column = 0;
  bool ours = false, overlong = false;
  bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
  for (ssize_t n; regular && total < (1 << 20) && (n = read(fd, buffer, sizeof buffer)) > 0;) {
    total += static_cast<size_t>(n);
    for (ssize_t i = 0; i < n; ++i) {
      char c = buffer[i];
      if (c != ':' && c != '\n') {
        if (length < sizeof field - 1)
          field[length++] = c;
        else
          overlong = true;
        continue;
      }
      field[length] = 0;
      if (column == 2 && length) {
        uint64_t value = 0;
        bool number = true;
        for (size_t j = 0; j < length && number; ++j) {
          number = field[j] >= '0' && field[j] <= '9' && value <= UINT32_MAX;
          value = value * 10 + static_cast<uint64_t>(field[j] - '0');
        }
        ours = number && value == uid;
      } else if (column == 5 && ours) {
        if (length && !overlong) Text(home, size) << "HOME=" << field;
        close(fd);
        return;
      }
      length = 0;
      overlong = false;
      ++column;
      if (c == '\n') {
        column = 0;
        ours = false;
      }
    }
  }
  close(fd);
}

void WaitForStart(Child& child, int listener) {
  char command = 0;
  if (listener < 0) {
    ssize_t n;
    do n = recv(child.sync, &command, 1, 0);
    while (n < 0 && errno == EINTR);
    if (n != 1 || command != 's') _exit(0);  // nobody wants us any more
    return;
  }
  close(child.sync);
  child.sync = -1;
  for (;;) {
    int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      _exit(1);
    }
    if (recv(connection, &command, 1, 0) == 1 && command == 's') {
      child.sync = connection;
      return;
    }
    close(connection);
  }
}

}  // namespace

uint64_t OwnPermitted(const Child& child) {
  __user_cap_data_struct data[2]{};
  if (CapGet(data) < 0) Fail(child, errno, "read capabilities");
  return data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32;
}

char** Pointers(const Child& child, Slice slice) {
  size_t bytes = (slice.count + 3) * sizeof(char*);
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) Fail(child, errno, "allocate argument list");
  char** out = static_cast<char**>(map);
  const Str* strings = child.Array<Str>(slice);
  for (uint32_t i = 0; i < slice.count; ++i) out[i] = const_cast<char*>(child.String(strings[i]));
  out[slice.count] = nullptr;
  return out;
}

void MakeTerminal(Child& child) {
  const Plan& plan = *child.plan;
  if (!(plan.flags & kPlanTerminal)) return;
  int master;
  if (child.devpts >= 0) {
    master = openat(child.devpts, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  } else {
    master = static_cast<int>(OpenAt2(AT_FDCWD, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS));
    if (master >= 0 && FilesystemMagic(master) != kDevptsMagic) Fail(child, 0, "open terminal: /dev/pts is not devpts");
  }
  if (master < 0) Fail(child, errno, "open terminal: /dev/pts/ptmx");
  int unlock = 0;
  if (ioctl(master, TIOCSPTLCK, &unlock) < 0) Fail(child, errno, "unlock terminal");
  // Never by /dev/pts/N, which the image could have replaced: CVE-2025-52565.
  child.terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (child.terminal < 0) Fail(child, errno, "open terminal peer");
  if (plan.rows || plan.columns) {
    winsize size{};
    size.ws_row = plan.rows;
    size.ws_col = plan.columns;
    if (ioctl(master, TIOCSWINSZ, &size) < 0) Fail(child, errno, "set terminal size");
  }
  if (plan.uid && fchown(child.terminal, plan.uid, static_cast<gid_t>(-1)) < 0) Fail(child, errno, "chown terminal");
  if (plan.kind == PlanKind::kContainer) {
    int target = MakeTarget(child, "/dev/console", true, true);
    if (target < 0) Fail(child, errno, "make /dev/console");
    int tree = static_cast<int>(OpenTree(child.terminal, "", OPEN_TREE_CLONE | kEmpty));
    if (tree < 0 || MoveMount(tree, target) < 0) Fail(child, errno, "mount terminal on /dev/console");
    close(tree);
    close(target);
  }
  Message message;
  message.type = MessageType::kTerminal;
  Send(child, message, master);
  close(master);
}

void SetStandardStreams(Child& child) {
  int wanted[3] = {child.stdio.in, child.stdio.out, child.stdio.err};
  if (child.terminal >= 0) {
    if (ioctl(child.terminal, TIOCSCTTY, 0) < 0) Fail(child, errno, "take controlling terminal");
    wanted[0] = wanted[1] = wanted[2] = child.terminal;
  }
  int null = -1;
  for (int i = 0; i < 3; ++i) {
    struct stat st;
    if (wanted[i] >= 0 && fstat(wanted[i], &st) < 0) wanted[i] = -1;
    if (wanted[i] >= 0 && !IsNull(st)) {
      // So that nothing that is still to be copied is overwritten by dup2 below.
      if (wanted[i] < 3 && wanted[i] != i) {
        wanted[i] = fcntl(wanted[i], F_DUPFD_CLOEXEC, 3);
        if (wanted[i] < 0) Fail(child, errno, "duplicate standard stream");
      }
      continue;
    }
    // The host's null device must not get in: its inode could be changed from inside.
    if (null < 0) null = OpenNull(child);
    if (null >= 0)
      wanted[i] = null;
    else if (wanted[i] < 0)
      Fail(child, 0, "open /dev/null of the container: not a null device");
  }
  if (null >= 0 && null < 3) {
    int moved = fcntl(null, F_DUPFD_CLOEXEC, 3);
    for (int& fd : wanted)
      if (fd == null) fd = moved;
  }
  for (int i = 0; i < 3; ++i) {
    if (wanted[i] == i)
      fcntl(i, F_SETFD, 0);
    else if (dup2(wanted[i], i) < 0)
      Fail(child, errno, "set standard stream");
  }
  if (child.terminal >= 0) return;
  for (int i = 0; i < 3; ++i) {  // so that /dev/stdout can be opened anew by the process's user
    struct stat st;
    if (!child.plan->uid || fstat(i, &st) < 0 || IsNull(st) || st.st_uid == child.plan->uid) continue;
    if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode) && !S_ISSOCK(st.st_mode)) continue;
    if (fchown(i, child.plan->uid, static_cast<gid_t>(-1)) < 0 && errno != EPERM && errno != EINVAL && errno != EROFS)
      Fail(child, errno, "chown standard stream");
  }
}

void ApplySettings(Child& child) {
  const Plan& plan = *child.plan;
  if (plan.hostname) {
    const char* name = child.String(plan.hostname);
    if (syscall(SYS_sethostname, name, strlen(name)) < 0) Fail(child, errno, "set hostname ", name);
  }
  if (plan.domainname) {
    const char* name = child.String(plan.domainname);
    if (syscall(SYS_setdomainname, name, strlen(name)) < 0) Fail(child, errno, "set domainname ", name);
  }
  const Setting* settings = child.Array<Setting>(plan.sysctls);
  for (uint32_t i = 0; i < plan.sysctls.count; ++i) {
    Line<256> path;
    path.text << "sys/" << child.String(settings[i].name);
    WriteProc(child, path.bytes, RESOLVE_NO_SYMLINKS, child.String(settings[i].value), "", false, "set sysctl");
  }
  if (plan.flags & kPlanOomScore && !(NeedsGuide(plan) && HasOomScore(child, plan.oom_score_adj))) {
    Line<16> score;
    score.text << plan.oom_score_adj;
    WriteOwn(child, "oom_score_adj", score.bytes, "", true, "set oom_score_adj");
  }
  const Limit* limits = child.Array<Limit>(plan.rlimits);
  for (uint32_t i = 0; i < plan.rlimits.count; ++i)
    SetLimit(child, limits[i], limits[i].resource == RLIMIT_NOFILE ? 256 : 0);
  if (plan.apparmor)
    WriteOwn(child, "attr/apparmor/exec", "exec ", child.String(plan.apparmor), false, "set AppArmor profile");
  if (plan.selinux) WriteOwn(child, "attr/exec", child.String(plan.selinux), "", false, "set SELinux label");
}

void EnterDirectory(Child& child, bool as_user) {
  const char* cwd = child.String(child.plan->cwd);
  if (!as_user && child.plan->kind == PlanKind::kContainer) {
    int fd = MakeTarget(child, cwd, false, false);
    int err = errno;
    if (fd >= 0)
      close(fd);
    else if (err != EACCES && err != EROFS)
      Fail(child, err, "make working directory ", cwd);
  }
  if (chdir(cwd) < 0) {
    if (!as_user && errno == EACCES) return;  // a directory that only the user may enter (root squash): again later
    Fail(child, errno, "chdir to cwd (\"", cwd, "\") set in config.json");
  }
  char where[4096];
  long n = syscall(SYS_getcwd, where, sizeof where);
  // "(unreachable)/..." or ENOENT: the directory is outside the root, by way of a leaked descriptor. CVE-2024-21626.
  if (n < 0 || where[0] != '/')
    Fail(child, n < 0 ? errno : 0, "the working directory ", cwd, " is outside the container");
}

void DropPrivileges(Child& child) {
  const Plan& plan = *child.plan;
  const CapabilitySets& sets = plan.capabilities;
  bool set_caps = plan.flags & kPlanCapabilities;
  if (plan.flags & kPlanNoNewPrivileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    Fail(child, errno, "set no_new_privs");
  if (set_caps) {
    for (unsigned cap = 0; cap < 64; ++cap) {
      if (sets.bounding >> cap & 1) continue;
      if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
        if (errno == EINVAL) break;  // past the kernel's last capability
        Fail(child, errno, "drop capability from the bounding set");
      }
    }
  }
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) Fail(child, errno, "keep capabilities");
  if (plan.flags & kPlanUserChange) {
    // Denied in a user namespace that somebody without privilege has made: its groups cannot change, none was asked
    // for.
    if (syscall(SYS_setgroups, plan.groups.count, child.Array<uint32_t>(plan.groups)) < 0 &&
        !(errno == EPERM && plan.groups.count == 0 && plan.flags & kPlanUserNamespace))
      Fail(child, errno, "set groups");
    if (syscall(SYS_setresgid, plan.gid, plan.gid, plan.gid) < 0) Fail(child, errno, "set group id");
    if (syscall(SYS_setresuid, plan.uid, plan.uid, plan.uid) < 0) Fail(child, errno, "set user id");
  }
  if (plan.flags & kPlanUmask) umask(plan.umask);
  if (set_caps) {
    uint64_t own = OwnPermitted(child);
    // Loading a filter without no_new_privs needs CAP_SYS_ADMIN: it stays permitted, not effective, until then.
    uint64_t keep = plan.seccomp.count && !(plan.flags & kPlanNoNewPrivileges) ? kSysAdmin : 0;
    uint64_t permitted = sets.permitted & own;
    uint64_t inheritable = sets.inheritable & own;
    __user_cap_data_struct data[2];
    if (CapSet(Split(sets.effective & permitted, (permitted | keep) & own, inheritable, data)) < 0)
      Fail(child, errno, "set capabilities");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned cap = 0; cap < 64; ++cap) {
      if (!((sets.ambient & permitted & inheritable) >> cap & 1)) continue;
      if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0) Fail(child, errno, "raise ambient capability");
    }
  }
  // setresuid has made the process dumpable as the system's policy says; until execve nothing may look inside.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

void Execute(Child& child) {
  const Plan& plan = *child.plan;
  char path[4096];
  const Str* args = child.Array<Str>(plan.args);
  if (!(plan.flags & kPlanNoProcess)) LookUp(child, child.String(args[0]), path, sizeof path);
  char** argv = Pointers(child, plan.args);
  char** envp = Pointers(child, plan.env);
  char home[600], listen_pid[32];
  bool has_home = false;
  for (uint32_t i = 0; i < plan.env.count; ++i) has_home = has_home || strncmp(envp[i], "HOME=", 5) == 0;
  if (!has_home) {
    FindHome(plan.uid, home, sizeof home);
    envp[plan.env.count] = home;
    envp[plan.env.count + 1] = nullptr;
  }
  if (plan.flags & kPlanListenPid) {
    Text(listen_pid, sizeof listen_pid) << "LISTEN_PID=" << static_cast<int>(syscall(SYS_getpid));
    size_t at = plan.env.count + (has_home ? 0 : 1);
    envp[at] = listen_pid;
    envp[at + 1] = nullptr;
  }

  // Only the sockets we wait on stay; everything else that was opened for the set-up goes now.
  int first = 3 + static_cast<int>(plan.preserve_fds);
  int listener = child.Fd(plan.listen);
  int sync_copy = fcntl(child.sync, F_DUPFD_CLOEXEC, first + 2);
  int listen_copy = listener < 0 ? -1 : fcntl(listener, F_DUPFD_CLOEXEC, first + 2);
  if (sync_copy < 0 || (listener >= 0 && listen_copy < 0)) Fail(child, errno, "duplicate synchronisation socket");
  dup3(sync_copy, first, O_CLOEXEC);
  if (listen_copy >= 0) dup3(listen_copy, first + 1, O_CLOEXEC);
  child.sync = first;
  listener = listen_copy >= 0 ? first + 1 : -1;
  if (syscall(SYS_close_range, first + (listener >= 0 ? 2 : 1), ~0U, 0) < 0) Fail(child, errno, "close descriptors");

  Send(child, Message{});  // ready
  WaitForStart(child, listener);
  if (plan.flags & kPlanNoProcess) Fail(child, 0, "process: missing in config.json, so there is nothing to start");

  const Limit* limits = child.Array<Limit>(plan.rlimits);
  for (uint32_t i = 0; i < plan.rlimits.count; ++i)
    if (limits[i].resource == RLIMIT_NOFILE && limits[i].soft < 256) SetLimit(child, limits[i], 0);
  RunHooks(child, plan.start_container, "created", false, "startContainer");
  if (syscall(SYS_close_range, first, ~0U, kCloseRangeCloexec) < 0)
    Fail(child, errno, "mark descriptors close-on-exec");
  uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);

  LoadFilter(child);
  syscall(SYS_execve, path, argv, envp);
  int err = errno;
  Fail(child, 0, "exec ", path, ": ", Lower(err), err == EACCES || err == EPERM || err == ENOEXEC ? 2 : 1);
}

}  // namespace berth::init
