#include <signal.h>

#include "base/log.h"
#include "pods/core.h"
#include "pods/exits.h"
#include "pods/operations.h"
#include "pods/registry.h"

namespace berth::pods {

namespace {

using std::chrono::nanoseconds;
using std::chrono::seconds;

// The caller is gone, its wish is not.
void FinishLater(Core& core, const ContainerState& c, nanoseconds grace) {
  auto kill = [&core, c, grace](const Deadline& until) {
    if (AwaitExit(core, c, until.Sooner(grace))) return;
    if (auto r = KillAndAwait(core, c, until); !r)
      log::Warn("container.kill", {{"container", c.id}, {"error", r.error()}});
  };
  if (auto r = core.registry.InBackground(kill, grace + seconds(120)); !r)
    // Too much goes on to wait for the grace to end: better dead early than never.
    (void)core.launcher.Signal(c.pod, c.id, SIGKILL, true, Deadline::After(seconds(10)));
}

}  // namespace

Result<void> StopContainer(Core& core, const std::string& container, nanoseconds grace, const Deadline& until) {
  auto found = core.registry.FindContainer(container);
  if (!found) {
    if (found.error().code == Code::kNotFound) return {};
    return std::unexpected(std::move(found).error());
  }
  ContainerPtr c = *found;
  Operation op(core, "stop_container", c->id.str());
  if (c->phase == ContainerPhase::kCreated) {
    // A start that is under way ends first; a container that was never started does not run.
    auto verb = TRY(core.registry.LockVerb(c->id.str(), until));
    c = core.registry.Container(c->id);
  }
  if (!c || c->phase != ContainerPhase::kRunning) return {};

  TRY(op.Stage("signal", "stop the container"));
  // Whoever's grace ends first kills: so a second stop shortens the first.
  grace = std::max(grace, nanoseconds::zero());
  if (grace > nanoseconds::zero()) {
    auto began = std::chrono::steady_clock::now();
    auto sent = core.launcher.Signal(c->pod, c->id, c->stop_signal, false, until.Sooner(seconds(10)));
    if (!sent && sent.error().code != Code::kNotFound && sent.error().code != Code::kConflict) {
      if (until.expired()) FinishLater(core, *c, grace);
      return op.Explain(std::move(sent).error());
    }
    auto waited = AwaitExit(core, *c, until.Sooner(grace));
    if (waited) return {};
    if (until.expired()) {
      FinishLater(core, *c, std::max(grace - (std::chrono::steady_clock::now() - began), nanoseconds::zero()));
      return op.Explain(std::move(waited).error());
    }
    log::Info("container.kill", {{"container", c->id}, {"grace_s", std::chrono::duration<double>(grace).count()}});
  }
  auto killed = KillAndAwait(core, *c, until);
  if (!killed && until.expired()) FinishLater(core, *c, nanoseconds::zero());
  return op.In(std::move(killed));
}

}  // namespace berth::pods
