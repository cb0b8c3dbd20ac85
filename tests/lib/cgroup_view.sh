# cgroup_view v1|v2: /sys/fs/cgroup of the caller's own mount namespace shows that version alone, as a host of that kind has it.
# Some runtimes (crun, Podman) refuse hosts that show both; crun makes directories in an unmounted `unified`, so none is left.
# shellcheck shell=bash
cgroup_view() {
  local view path name
  case $1 in
    v1)
      while umount /sys/fs/cgroup/unified 2> /dev/null; do :; done
      view=$(mktemp -d)
      mount -t tmpfs -o mode=755 tmpfs "$view"
      mount --make-private "$view"   # else its end would be that of its copy
      while read -r path; do
        name=${path#/sys/fs/cgroup/}
        mkdir -p "$view/$name"
        mount --bind "$path" "$view/$name"
      done < <(awk '{for (i = 7; $i != "-"; ++i); if ($(i + 1) == "cgroup" && $5 ~ "^/sys/fs/cgroup/") print $5}' /proc/self/mountinfo)
      # Hierarchies that others have mounted elsewhere: callers look for each that /proc/self/cgroup names.
      while IFS=: read -r _ name _; do
        [ -n "$name" ] || continue
        path=$view/${name#name=}
        [ -d "$path" ] || { mkdir "$path" && mount -t cgroup -o "$name" cgroup "$path" || rmdir "$path"; }
      done < /proc/self/cgroup
      mount --rbind "$view" /sys/fs/cgroup
      umount -l "$view"
      rmdir "$view" ;;
    v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
    *) return 1 ;;
  esac
}
