#pragma once
// JSON documents as plain structs, over Boost.JSON and Boost.Describe.
//
//   struct Hosts { std::string name; std::optional<int> port; std::vector<std::string> tags; };
//   BOOST_DESCRIBE_STRUCT(Hosts, (), (name, port, tags))
//   auto hosts = TRY(json::Parse<Hosts>(text, "hosts.json"));
//
// Reading: unknown members are ignored; null and missing leave the default; a wrong type is kInvalidArgument with the
// path: `hosts.json: HostConfig.NanoCpus: expected integer, got string`. Depth and size are bounded (hostile input).
// Writing: members in order; an empty optional is left out; everything else is written. A member whose wire name is not a
// C++ identifier, or that must be left out when empty, is declared by specialising json::Names<T>; a type with a form of
// its own by json::Codec<T> (see json_binder.h). ToText(value, Omit::kEmpty) leaves out what Go's omitempty would.
// Types: bool, integers (range-checked), double, std::string, std::optional, std::vector, std::map<std::string, T>,
// described structs and enums, boost::json::value (kept as it is).
#include <string>
#include <string_view>

#include <boost/describe.hpp>
#include <boost/json.hpp>

#include "base/error.h"

namespace berth::json {

using Value = boost::json::value;
using Object = boost::json::object;
using Array = boost::json::array;

// Text to tree: at most 64 levels and `limit` bytes; the error names `where` and the byte offset.
Result<Value> ParseTree(std::string_view text, std::string_view where, size_t limit = 16 << 20);
std::string Serialize(const Value& value);          // compact
std::string SerializePretty(const Value& value);    // two spaces, as people read it

}  // namespace berth::json

#include "base/json_binder.h"  // Parse<T>, FromValue<T>, ToValue<T>, ToText<T>
