#pragma once
// The kernel as the executor calls it: raw system calls, so that musl and glibc builds behave alike and nothing hides a
// lock, a cache or a thread broadcast (setresuid). Results as the C library gives them: -1 and errno.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
#include <cerrno>
#include <cstdint>

namespace berth::init {

inline constexpr int kMntDetach = 2;  // MNT_DETACH; <sys/mount.h> and <linux/mount.h> exclude each other
inline constexpr uint64_t kCloneIntoCgroup = 0x200000000ULL;
inline constexpr uint64_t kCloneNewTime = 0x80;
inline constexpr uint32_t kProcMagic = 0x9fa0, kSysfsMagic = 0x62656572, kDevptsMagic = 0x1cd1;
inline constexpr uint32_t kCgroup1Magic = 0x27e0eb, kCgroup2Magic = 0x63677270;
inline constexpr uint64_t kProcRootInode = 1;
inline constexpr unsigned kEmpty = 0x1000;      // AT_EMPTY_PATH
inline constexpr unsigned kRecursive = 0x8000;  // AT_RECURSIVE
inline constexpr unsigned kCloseRangeCloexec = 4;

inline long OpenAt2(int dir, const char* path, uint64_t flags, uint64_t resolve, uint64_t mode = 0) {
  open_how how{flags | O_CLOEXEC, mode, resolve};
  return syscall(SYS_openat2, dir, path, &how, sizeof how);
}
inline long OpenTree(int dir, const char* path, unsigned flags) {
  return syscall(SYS_open_tree, dir, path, flags | OPEN_TREE_CLOEXEC);
}
inline long MoveMount(int from, int to) {  // both are descriptors
  return syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}
inline long MoveMount(int from, const char* to) {
  return syscall(SYS_move_mount, from, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH);
}
inline long MountSetAttr(int fd, bool recursive, uint64_t set, uint64_t clear, uint64_t propagation) {
  mount_attr attr{};
  attr.attr_set = set;
  attr.attr_clr = clear;
  attr.propagation = propagation;
  return syscall(SYS_mount_setattr, fd, "", kEmpty | (recursive ? kRecursive : 0), &attr, sizeof attr);
}
inline long Mount(const char* source, const char* target, const char* type, unsigned long flags, const char* data) {
  return syscall(SYS_mount, source, target, type, flags, data);
}
inline long Umount(const char* target, int flags) { return syscall(SYS_umount2, target, flags); }
inline long PivotRoot(const char* root, const char* old) { return syscall(SYS_pivot_root, root, old); }
inline long FsOpen(const char* type) { return syscall(SYS_fsopen, type, FSOPEN_CLOEXEC); }
inline long FsConfig(int fs, unsigned command, const char* key, const char* value) {
  return syscall(SYS_fsconfig, fs, command, key, value, 0);
}
inline long FsMount(int fs, unsigned attributes) { return syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes); }
inline long PidfdOpen(pid_t pid) { return syscall(SYS_pidfd_open, pid, 0); }
inline long PidfdSignal(int pidfd, int signal) { return syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }
inline long CapSet(const __user_cap_data_struct* data) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(SYS_capset, &header, data);
}
inline long CapGet(__user_cap_data_struct* data) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(SYS_capget, &header, data);
}

// statfs without its C library structs: only the magic is wanted. 0 when it fails.
uint32_t FilesystemMagic(int fd);

}  // namespace berth::init
