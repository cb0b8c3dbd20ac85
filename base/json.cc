#include "base/json.h"

#include <cmath>

#include "base/utf8.h"

namespace berth::json {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kShownKey = 80;  // hostile keys do not flood an error

void Pretty(const Value& value, std::string& out, size_t indent) {
  const auto line = [&](size_t depth) {
    out += '\n';
    out.append(depth * 2, ' ');
  };
  if (const Object* object = value.if_object(); object && !object->empty()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : *object) {
      if (!std::exchange(first, false)) out += ',';
      line(indent + 1);
      (out += boost::json::serialize(key)) += ": ";
      Pretty(item, out, indent + 1);
    }
    line(indent);
    out += '}';
  } else if (const Array* array = value.if_array(); array && !array->empty()) {
    out += '[';
    bool first = true;
    for (const Value& item : *array) {
      if (!std::exchange(first, false)) out += ',';
      line(indent + 1);
      Pretty(item, out, indent + 1);
    }
    line(indent);
    out += ']';
  } else {
    out += boost::json::serialize(value);
  }
}

bool Plain(std::string_view name) {
  for (const char c : name)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '_' && c != '-') return false;
  return !name.empty();
}

std::string Render(const detail::Step* step) {
  if (!step || !step->parent) return "";
  std::string out = Render(step->parent);
  if (step->index != detail::Step::kNone) return out + fmt::format("[{}]", step->index);
  const std::string_view shown = step->name.substr(0, kShownKey);
  if (!Plain(shown)) return out + "[" + boost::json::serialize(boost::json::string_view(ToUtf8(shown))) + "]";
  if (!out.empty()) out += '.';
  return out.append(shown);
}

}  // namespace

Result<Value> ParseTree(std::string_view text, std::string_view where, size_t limit) {
  if (text.size() > limit) return Err(Code::kInvalidArgument, "{}: {} bytes of JSON, at most {} are accepted", where, text.size(), limit);
  boost::json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::json::stream_parser parser({}, options);
  boost::system::error_code ec;
  const size_t used = parser.write_some(text.data(), text.size(), ec);
  if (!ec && used < text.size()) ec = boost::json::error::extra_data;
  if (!ec) parser.finish(ec);
  if (ec) return Err(Code::kInvalidArgument, "{}: byte {}: {}", where, used, ec.message());
  return parser.release();
}

std::string Serialize(const Value& value) { return boost::json::serialize(value); }

std::string SerializePretty(const Value& value) {
  std::string out;
  Pretty(value, out, 0);
  return out;
}

namespace detail {

std::string_view KindName(const Value& value) {
  switch (value.kind()) {
    case boost::json::kind::null: return "null";
    case boost::json::kind::bool_: return "boolean";
    case boost::json::kind::int64:
    case boost::json::kind::uint64: return "integer";
    case boost::json::kind::double_: return "number";
    case boost::json::kind::string: return "string";
    case boost::json::kind::array: return "array";
    case boost::json::kind::object: return "object";
  }
  return "unknown";
}

bool Reader::Fail(const Step& at, std::string what) {
  const std::string path = Render(&at);
  error_ = std::string(where_) + ": " + path + (path.empty() ? "" : ": ") + what;
  return false;
}

bool Reader::Expected(const Step& at, std::string_view wanted, const Value& got) {
  return Fail(at, fmt::format("expected {}, got {}", wanted, KindName(got)));
}

bool Reader::Bool(const Value& value, const Step& at, bool& out) {
  const bool* b = value.if_bool();
  if (!b) return Expected(at, "boolean", value);
  out = *b;
  return true;
}

bool Reader::Signed(const Value& value, const Step& at, int64_t low, int64_t high, int64_t& out) {
  if (const uint64_t* u = value.if_uint64())
    return Fail(at, fmt::format("{} is out of range {} to {}", *u, low, high));
  const int64_t* i = value.if_int64();
  if (!i) return Expected(at, "integer", value);
  if (*i < low || *i > high) return Fail(at, fmt::format("{} is out of range {} to {}", *i, low, high));
  out = *i;
  return true;
}

bool Reader::Unsigned(const Value& value, const Step& at, uint64_t high, uint64_t& out) {
  if (const int64_t* i = value.if_int64()) {
    if (*i < 0 || static_cast<uint64_t>(*i) > high) return Fail(at, fmt::format("{} is out of range 0 to {}", *i, high));
    out = static_cast<uint64_t>(*i);
    return true;
  }
  const uint64_t* u = value.if_uint64();
  if (!u) return Expected(at, "integer", value);
  if (*u > high) return Fail(at, fmt::format("{} is out of range 0 to {}", *u, high));
  out = *u;
  return true;
}

bool Reader::Double(const Value& value, const Step& at, double& out) {
  if (!value.is_number()) return Expected(at, "number", value);
  out = value.is_double() ? value.get_double() : value.is_int64() ? double(value.get_int64()) : double(value.get_uint64());
  return true;
}

bool Reader::String(const Value& value, const Step& at, std::string& out) {
  const boost::json::string* s = value.if_string();
  if (!s) return Expected(at, "string", value);
  out.assign(s->data(), s->size());
  return true;
}

bool Reader::Enumerator(const Value& value, const Step& at, std::span<const EnumName> names, int64_t& out) {
  const boost::json::string* s = value.if_string();
  if (!s) return Expected(at, "string", value);
  const std::string_view text(s->data(), s->size());
  std::string valid;
  for (const EnumName& n : names) {
    if (n.name == text) {
      out = n.value;
      return true;
    }
    valid += fmt::format("{}\"{}\"", valid.empty() ? "" : ", ", n.name);
  }
  return Fail(at, fmt::format("\"{}\" is not one of {}", text.substr(0, kShownKey), valid));
}

std::unexpected<Error> Reader::Take(std::source_location at) {
  return std::unexpected(Error{Code::kInvalidArgument, std::move(error_), 0, at});
}

Value StringValue(std::string_view text) {
  if (IsUtf8(text)) return Value(boost::json::string_view(text.data(), text.size()));
  const std::string fixed = ToUtf8(text);
  return Value(boost::json::string_view(fixed.data(), fixed.size()));
}

Value DoubleValue(double number) { return std::isfinite(number) ? Value(number) : Value(nullptr); }

}  // namespace detail
}  // namespace berth::json
