#include "runtime/oci/hooks.h"

#include <sys/stat.h>

#include "base/child.h"
#include "base/json.h"

namespace berth::runtime::oci {

HookState::HookState(const std::string& oci_version, const std::string& id, const std::string& bundle,
                     const std::map<std::string, std::string>& annotations) {
  head = fmt::format(R"({{"ociVersion":{},"id":{},"status":")", json::Serialize(json::ToValue(oci_version)),
                     json::Serialize(json::ToValue(id)));
  tail = fmt::format(R"(,"bundle":{})", json::Serialize(json::ToValue(bundle)));
  if (!annotations.empty()) tail += R"(,"annotations":)" + json::Serialize(json::ToValue(annotations));
  tail += '}';
}

std::string HookState::For(std::string_view status, int64_t pid) const {
  return fmt::format(R"({}{}","pid":{}{})", head, status, pid, tail);
}

namespace {

Result<void> RunHook(const Hook& hook, const std::string& name, const std::string& state, const std::string& bundle) {
  Command command;
  command.path = hook.path;
  command.argv = hook.args.empty() ? std::vector{hook.path} : hook.args;
  command.env = hook.env;
  command.input = state;
  command.output_limit = 4096;
  struct stat st;
  if (::stat(bundle.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) command.directory = bundle;
  auto until = hook.timeout ? Deadline::After(std::chrono::seconds(*hook.timeout)) : Deadline::Never();
  auto done = berth::Run(command, until);
  if (!done) {
    if (done.error().code == Code::kDeadlineExceeded)
      return Err(Code::kFailedPrecondition, "{} ({}): not done within its timeout of {} s", name, hook.path,
                 *hook.timeout);
    return Wrap(std::move(done).error(), "{} ({})", name, hook.path);
  }
  if (done->exit_code == 0) return {};
  std::string said = done->err.empty() ? done->out : done->err;
  while (!said.empty() && isspace(static_cast<unsigned char>(said.back()))) said.pop_back();
  return Err(Code::kFailedPrecondition, "{} ({}): exit status {}{}{}", name, hook.path, done->exit_code,
             said.empty() ? "" : ": ", said);
}

}  // namespace

Result<void> RunHooks(const std::vector<Hook>& hooks, std::string_view kind, const std::string& state,
                      const std::string& bundle) {
  for (size_t i = 0; i < hooks.size(); ++i) TRY(RunHook(hooks[i], fmt::format("{} hook #{}", kind, i), state, bundle));
  return {};
}

void RunPoststop(const RuntimeHost& host, const StateRecord& s) {
  if (!s.hooks || s.hooks->poststop.empty()) return;
  std::string state = HookState(s.ociVersion, s.id, s.bundle, s.annotations).For("stopped", 0);
  for (size_t i = 0; i < s.hooks->poststop.size(); ++i)
    if (auto done = RunHook(s.hooks->poststop[i], fmt::format("poststop hook #{}", i), state, s.bundle); !done)
      host.warn(done.error().what);
}

Result<void> CheckHooks(const Hooks& hooks) {
  const std::pair<std::string_view, const std::vector<Hook>*> lists[] = {{"prestart", &hooks.prestart},
                                                                         {"createRuntime", &hooks.createRuntime},
                                                                         {"createContainer", &hooks.createContainer},
                                                                         {"startContainer", &hooks.startContainer},
                                                                         {"poststart", &hooks.poststart},
                                                                         {"poststop", &hooks.poststop}};
  for (const auto& [name, list] : lists) {
    for (size_t i = 0; i < list->size(); ++i) {
      const Hook& hook = (*list)[i];
      if (hook.path.empty() || hook.path[0] != '/')
        return Err(Code::kInvalidArgument, "hooks.{}[{}].path: \"{}\": must be an absolute path", name, i, hook.path);
      if (hook.timeout && *hook.timeout <= 0)
        return Err(Code::kInvalidArgument, "hooks.{}[{}].timeout: {}: must be above zero", name, i, *hook.timeout);
      auto clean = [](const std::string& text) { return text.find('\0') == std::string::npos; };
      if (!clean(hook.path) || !std::all_of(hook.args.begin(), hook.args.end(), clean) ||
          !std::all_of(hook.env.begin(), hook.env.end(), clean))
        return Err(Code::kInvalidArgument, "hooks.{}[{}]: contains a zero byte", name, i);
    }
  }
  return {};
}

}  // namespace berth::runtime::oci
