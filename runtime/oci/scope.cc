#include "runtime/oci/scope.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "runtime/linux/cgroup_files.h"
#include "runtime/linux/devices.h"
#include "runtime/linux/systemd.h"

namespace berth::runtime::oci {
namespace {

// Where systemd has put the holder, as the kernel says it: the same prefix as ours in a container, and a user manager's
// scopes lie below its own service.
Result<std::string> GroupOf(pid_t pid, const cgroup::Layout& layout, const std::string& unit) {
  std::string text = TRY(cgroup::ReadControl(fmt::format("/proc/{}/cgroup", pid)));
  std::string v1, v2;
  for (const std::string& line : cgroup::Words(text, '\n')) {  // "1:name=systemd:/system.slice/x.scope", "0::/..."
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    if (controllers == "name=systemd") v1 = line.substr(second + 1);
    if (controllers.empty() && line.starts_with("0:")) v2 = line.substr(second + 1);
  }
  for (const std::string& path : layout.unified() ? std::vector{v2} : std::vector{v1, v2})
    if (path.ends_with("/" + unit)) return path;
  return Err(Code::kFailedPrecondition, "systemd: unit {}: process {} is not in its cgroup ({})", unit, pid,
             layout.unified() ? v2 : v1);
}

}  // namespace

Result<Holder> Holder::Fork() {
  Holder h;
  const pid_t us = ::getpid();
  // Without the C library's fork handlers: the child only waits.
  h.pid_ = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (h.pid_ < 0) return SysErr("fork the scope's first process");
  if (h.pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::getppid() != us) ::_exit(0);
    ::prctl(PR_SET_NAME, "berth:scope", 0, 0, 0);
    ::syscall(SYS_close_range, 0, ~0U, 0);
    for (;;) ::pause();
  }
  return h;
}

void Holder::Kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

Result<OpenedScope> OpenScope(const Spec& spec, const std::string& id, const Deadline& until) {
  const cgroup::Layout* layout = TRY(cgroup::Host());
  systemd::Scope scope = TRY(systemd::ScopeOf(spec.linux->cgroupsPath, id, systemd::UserManager()));
  Resources resources = spec.linux->resources.value_or(Resources{});
  resources.devices = cgroup::WithDefaultDevices(resources.devices);
  TRY(cgroup::CheckDeviceRules(resources.devices));
  auto manager = TRY(systemd::Manager::Connect(until));
  auto properties = TRY(systemd::LimitProperties(*layout, resources, manager.version()));
  for (systemd::Property& p : TRY(systemd::AnnotatedProperties(spec.annotations))) properties.push_back(std::move(p));
  OpenedScope out{TRY(Holder::Fork()), scope.unit, {}};
  TRY(manager.StartScope(scope, "container " + id, out.holder.pid(), std::move(properties), until));
  auto path = GroupOf(out.holder.pid(), *layout, scope.unit);
  if (!path) {
    (void)manager.Stop(scope.unit, until);
    return std::unexpected(std::move(path).error());
  }
  out.cgroup = std::move(*path);
  return out;
}

Result<void> StopScope(const std::string& unit, const Deadline& until) {
  return TRY(systemd::Manager::Connect(until)).Stop(unit, until);
}

Result<void> UpdateScope(const std::string& unit, const Resources& resources, const Deadline& until) {
  auto manager = TRY(systemd::Manager::Connect(until));
  return manager.SetProperties(unit, TRY(systemd::LimitProperties(*TRY(cgroup::Host()), resources, manager.version())),
                               until);
}

}  // namespace berth::runtime::oci
