#include "runtime/handler_features.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>

#include "base/child.h"
#include "base/json.h"

namespace berth::runtime {
namespace {

struct Document {
  std::vector<std::string> mountOptions;
};
BOOST_DESCRIBE_STRUCT(Document, (), (mountOptions))

}  // namespace

HandlerFeatures ReadFeatures(std::string_view document) {
  auto read = json::Parse<Document>(document, "features");
  return {.recursive_read_only = read && std::ranges::find(read->mountOptions, "rro") != read->mountOptions.end()};
}

std::vector<std::string> HandlerEnvironment() {
  std::vector<std::string> out;
  for (const char* name : {"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR"})
    if (const char* value = ::getenv(name)) out.push_back(fmt::format("{}={}", name, value));
  if (::getenv("PATH") == nullptr)
    out.emplace_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  return out;
}

Result<HandlerFeatures> AskFeatures(const Handler& handler, const Deadline& until) {
  if (::access(handler.path.c_str(), X_OK) < 0) {
    const int why = errno;
    return Err(Code::kFailedPrecondition, "{}: {}", handler.path, ErrnoText(why));
  }
  Command command;
  command.argv = {handler.path, "features"};
  command.env = HandlerEnvironment();
  auto done = TRY(Run(command, until));
  return done.exit_code == 0 ? ReadFeatures(done.out) : HandlerFeatures{};
}

}  // namespace berth::runtime
