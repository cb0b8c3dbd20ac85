#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/undo.h"
#include "runtime/oci/launch.h"
#include "runtime/oci/listener.h"
#include "runtime/oci/notify.h"

namespace berth::runtime::oci {

Result<int> Run(const RuntimeHost& host, const RunRequest& r, int* failed_code) {
  if (r.subreaper && !r.detach) ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  Created c = TRY(Launch(host, r.create, false, failed_code));
  unique_fd pidfd(c.process.pidfd), terminal(c.process.terminal);
  Undo undo;
  undo.Add("remove container", [&] { return TearDown(host, c.dir, c.state); });
  auto end = [&] { EndProcess(c.process.pid, pidfd.get()); };
  if (r.detach && c.terminal && r.create.console_socket.empty()) {
    end();
    return Err(Code::kInvalidArgument,
               "process.terminal: --detach needs --console-socket, else nobody is at its other end");
  }
  std::optional<NotifySocket> notify;
  if (!c.state.notifySocket.empty()) {
    auto made = NotifySocket::Listen(c.dir.path(), c.state.notifySocket);
    if (!made) {
      end();
      return std::unexpected(std::move(made).error());
    }
    notify = std::move(*made);
  }
  auto listener = Listener::Connect(c.state, c.state.pid, "created");
  if (!listener) {
    end();
    return std::unexpected(std::move(listener).error());
  }
  init::Failure failure;
  if (!init::Start(&c.process, Listener::Observe(*listener), &failure)) {
    end();
    return FromFailure(failure, failed_code);
  }
  if (auto done = Started(host, c.dir, c.state, pidfd.get()); !done) {
    undo.Keep();
    return std::unexpected(std::move(done).error());
  }
  if (notify) {
    auto passed = r.detach ? notify->UntilReady(c.process.pid, pidfd.get())
                           : notify->InBackground(c.process.pid, pidfd.get());
    if (!passed) host.warn(passed.error().what);
  }
  if (r.detach) {
    undo.Keep();
    return 0;
  }
  auto code = Attend(c.process.pid, pidfd.get(), terminal.get());
  if (!code) {
    end();
    return code;
  }
  if (r.keep) {
    undo.Keep();
    return code;
  }
  undo.Keep();
  TRY(TearDown(host, c.dir, c.state));
  return code;
}

}  // namespace berth::runtime::oci
