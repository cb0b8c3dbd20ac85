#include "runtime/handler_features.h"

#include <unistd.h>

#include "base/child.h"
#include "base/json.h"
#include "runtime/foreign_bundle.h"

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

Result<HandlerFeatures> AskFeatures(const Handler& handler, const Deadline& until) {
  if (::access(handler.path.c_str(), X_OK) < 0) {
    const int why = errno;
    return Err(Code::kFailedPrecondition, "{}: {}", handler.path, ErrnoText(why));
  }
  Command command;
  command.argv = {handler.path, "features"};
  command.env = ForeignBundle::Environment();
  auto done = TRY(Run(command, until));
  return done.exit_code == 0 ? ReadFeatures(done.out) : HandlerFeatures{};
}

}  // namespace berth::runtime
