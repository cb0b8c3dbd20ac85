#pragma once
// The binder behind base/json.h: described C++ types to and from boost::json::value.
//
// Names<T> may be specialised for a described struct or enum, with any of these members:
//
//   template <> struct berth::json::Names<Spec> {
//     static constexpr json::Rename kWire[] = {{"os_version", "os.version"}, {"default_", "default"}};
//     static constexpr bool kOmitEmpty = true;                        // all members, or:
//     static constexpr std::string_view kOmit[] = {"labels"};         // only these are left out when empty
//     static constexpr std::string_view kAlways[] = {"root"};         // written even when kOmitEmpty or Omit::kEmpty ask not to
//   };
//
// Members are named by their C++ name. Empty is what Go's omitempty means: false, 0, "", an empty array or map, an absent
// optional, and a plain struct member of which nothing is left. A present optional is written even when its content is {}.
//
// Codec<T> may be specialised for a type with a form of its own (a string or a list, base64 bytes):
//
//   template <> struct berth::json::Codec<Command> {
//     static Result<Command> Read(const json::Value&);   // the error gets the path put before it
//     static json::Value Write(const Command&);
//   };
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <boost/describe.hpp>
#include <boost/json/value.hpp>
#include <boost/mp11/algorithm.hpp>

#include "base/error.h"

namespace berth::json {

struct Rename {
  std::string_view member, wire;
};
template <class T>
struct Names {};
template <class T>
struct Codec {};

enum class Omit {
  kNothing,  // only absent optionals are left out, and what Names<T> says
  kEmpty,    // every empty member of every struct is left out
};

namespace detail {

struct Step {  // where in the document; lives on the stack of the reader
  static constexpr size_t kNone = static_cast<size_t>(-1);
  const Step* parent = nullptr;
  std::string_view name;
  size_t index = kNone;
};

struct EnumName {
  std::string_view name;
  int64_t value;
};

class Reader {  // keeps the first error; every function answers false when it made one
 public:
  explicit Reader(std::string_view where) : where_(where) {}
  bool Fail(const Step& at, std::string what);
  bool Expected(const Step& at, std::string_view wanted, const Value& got);
  bool Bool(const Value& value, const Step& at, bool& out);
  bool Signed(const Value& value, const Step& at, int64_t low, int64_t high, int64_t& out);
  bool Unsigned(const Value& value, const Step& at, uint64_t high, uint64_t& out);
  bool Double(const Value& value, const Step& at, double& out);
  bool String(const Value& value, const Step& at, std::string& out);
  bool Enumerator(const Value& value, const Step& at, std::span<const EnumName> names, int64_t& out);
  std::unexpected<Error> Take(std::source_location at);

 private:
  std::string_view where_;
  std::string error_;
};

std::string_view KindName(const Value& value);
Value StringValue(std::string_view text);  // what is not UTF-8 becomes U+FFFD
Value DoubleValue(double number);          // nan and infinity become null

template <class T>
constexpr std::string_view WireName(std::string_view member) {
  if constexpr (requires { Names<T>::kWire; })
    for (const Rename& r : Names<T>::kWire)
      if (r.member == member) return r.wire;
  return member;
}

template <class T>
constexpr bool OmitsEmpty(std::string_view member, Omit omit) {
  if constexpr (requires { Names<T>::kAlways; })
    for (std::string_view name : Names<T>::kAlways)
      if (name == member) return false;
  if constexpr (requires { Names<T>::kOmitEmpty; })
    if (Names<T>::kOmitEmpty) return true;
  if constexpr (requires { Names<T>::kOmit; })
    for (std::string_view name : Names<T>::kOmit)
      if (name == member) return true;
  return omit == Omit::kEmpty;
}

template <class T>
struct Shape { static constexpr int kind = 0; };
template <class T>
struct Shape<std::optional<T>> { static constexpr int kind = 1; using Item = T; };
template <class T>
struct Shape<std::vector<T>> { static constexpr int kind = 2; using Item = T; };
template <class T>
struct Shape<std::map<std::string, T>> { static constexpr int kind = 3; using Item = T; };

template <class T>
concept HasCodec = requires(const Value& v) { Codec<T>::Read(v); };
template <class T>
concept DescribedStruct = boost::describe::has_describe_members<T>::value && !std::is_enum_v<T>;
template <class>
constexpr bool kNever = false;

template <class E>
std::span<const EnumName> EnumNames() {
  static const std::vector<EnumName> names = [] {
    std::vector<EnumName> out;
    boost::mp11::mp_for_each<boost::describe::describe_enumerators<E>>(
        [&](auto d) { out.push_back({WireName<E>(d.name), static_cast<int64_t>(d.value)}); });
    return out;
  }();
  return names;
}

template <class T>
bool Read(Reader& reader, const Value& value, const Step& at, T& out);

template <class T>
bool ReadMembers(Reader& reader, const boost::json::object& object, const Step& at, T& out) {
  bool ok = true;
  boost::mp11::mp_for_each<boost::describe::describe_bases<T, boost::describe::mod_public>>([&](auto d) {
    using Base = typename decltype(d)::type;
    if (ok) ok = ReadMembers<Base>(reader, object, at, out);
  });
  boost::mp11::mp_for_each<boost::describe::describe_members<T, boost::describe::mod_public>>([&](auto d) {
    if (!ok) return;
    const std::string_view name = WireName<T>(d.name);
    if (const Value* item = object.if_contains(boost::json::string_view(name.data(), name.size())))
      ok = Read(reader, *item, Step{&at, name}, out.*d.pointer);
  });
  return ok;
}

template <class T>
bool Read(Reader& reader, const Value& value, const Step& at, T& out) {
  using S = Shape<T>;
  if constexpr (std::is_same_v<T, Value>) {
    out = value;
    return true;
  } else if constexpr (HasCodec<T>) {
    if (value.is_null()) return true;
    Result<T> result = Codec<T>::Read(value);
    if (!result) return reader.Fail(at, std::move(result.error().what));
    out = std::move(*result);
    return true;
  } else {
    if (value.is_null()) return true;
    if constexpr (std::is_same_v<T, bool>) {
      return reader.Bool(value, at, out);
    } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      int64_t wide = 0;
      if (!reader.Signed(value, at, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), wide)) return false;
      out = static_cast<T>(wide);
      return true;
    } else if constexpr (std::is_integral_v<T>) {
      uint64_t wide = 0;
      if (!reader.Unsigned(value, at, std::numeric_limits<T>::max(), wide)) return false;
      out = static_cast<T>(wide);
      return true;
    } else if constexpr (std::is_floating_point_v<T>) {
      double wide = 0;
      if (!reader.Double(value, at, wide)) return false;
      out = static_cast<T>(wide);
      return true;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return reader.String(value, at, out);
    } else if constexpr (std::is_enum_v<T>) {
      int64_t number = 0;
      if (!reader.Enumerator(value, at, EnumNames<T>(), number)) return false;
      out = static_cast<T>(number);
      return true;
    } else if constexpr (S::kind == 1) {
      return Read(reader, value, at, out.emplace());
    } else if constexpr (S::kind == 2) {
      const boost::json::array* array = value.if_array();
      if (!array) return reader.Expected(at, "array", value);
      out.clear();
      out.reserve(array->size());
      for (size_t i = 0; i < array->size(); ++i) {
        typename S::Item item{};
        if (!Read(reader, (*array)[i], Step{&at, {}, i}, item)) return false;
        out.push_back(std::move(item));
      }
      return true;
    } else if constexpr (S::kind == 3) {
      const boost::json::object* object = value.if_object();
      if (!object) return reader.Expected(at, "object", value);
      out.clear();
      for (const auto& member : *object) {
        const std::string_view name(member.key().data(), member.key().size());
        typename S::Item item{};
        if (!Read(reader, member.value(), Step{&at, name}, item)) return false;
        out.insert_or_assign(std::string(name), std::move(item));
      }
      return true;
    } else if constexpr (DescribedStruct<T>) {
      const boost::json::object* object = value.if_object();
      if (!object) return reader.Expected(at, "object", value);
      return ReadMembers<T>(reader, *object, at, out);
    } else {
      static_assert(kNever<T>, "no JSON form: describe the struct or specialise json::Codec");
    }
  }
}

template <class T>
bool IsEmpty(const T& value) {
  using S = Shape<T>;
  if constexpr (S::kind == 1) return !value.has_value();
  else if constexpr (S::kind == 2 || S::kind == 3 || std::is_same_v<T, std::string>) return value.empty();
  else if constexpr (std::is_same_v<T, Value>) return value.is_null();
  else if constexpr (std::is_arithmetic_v<T>) return value == T{};
  else if constexpr (requires { { value.empty() } -> std::convertible_to<bool>; }) return value.empty();
  else return false;
}

template <class T>
Value Write(const T& value, Omit omit);

template <class T>
void WriteMembers(const T& value, Omit omit, boost::json::object& object) {
  boost::mp11::mp_for_each<boost::describe::describe_bases<T, boost::describe::mod_public>>([&](auto d) {
    using Base = typename decltype(d)::type;
    WriteMembers<Base>(value, omit, object);
  });
  boost::mp11::mp_for_each<boost::describe::describe_members<T, boost::describe::mod_public>>([&](auto d) {
    const auto& item = value.*d.pointer;
    using Item = std::remove_cvref_t<decltype(item)>;
    if (IsEmpty(item) && (Shape<Item>::kind == 1 || OmitsEmpty<T>(d.name, omit))) return;
    Value written = Write(item, omit);
    // With everything empty left out, a struct of which nothing is left says nothing either.
    if constexpr (DescribedStruct<Item> && !HasCodec<Item>)
      if (written.get_object().empty() && OmitsEmpty<T>(d.name, omit)) return;
    const std::string_view name = WireName<T>(d.name);
    object[boost::json::string_view(name.data(), name.size())] = std::move(written);
  });
}

template <class T>
Value Write(const T& value, Omit omit) {
  using S = Shape<T>;
  if constexpr (std::is_same_v<T, Value>) {
    return value;
  } else if constexpr (HasCodec<T>) {
    return Codec<T>::Write(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return Value(value);
  } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
    return Value(static_cast<int64_t>(value));
  } else if constexpr (std::is_integral_v<T>) {
    return Value(static_cast<uint64_t>(value));
  } else if constexpr (std::is_floating_point_v<T>) {
    return DoubleValue(value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return StringValue(value);
  } else if constexpr (std::is_enum_v<T>) {
    for (const EnumName& n : EnumNames<T>())
      if (n.value == static_cast<int64_t>(value)) return StringValue(n.name);
    return Value(static_cast<int64_t>(value));
  } else if constexpr (S::kind == 1) {
    return value ? Write(*value, omit) : Value(nullptr);
  } else if constexpr (S::kind == 2) {
    boost::json::array array;
    array.reserve(value.size());
    for (const auto& item : value) array.push_back(Write<typename S::Item>(item, omit));
    return array;
  } else if constexpr (S::kind == 3) {
    boost::json::object object;
    for (const auto& [key, item] : value) object[StringValue(key).get_string()] = Write(item, omit);
    return object;
  } else if constexpr (DescribedStruct<T>) {
    boost::json::object object;
    WriteMembers<T>(value, omit, object);
    return object;
  } else {
    static_assert(kNever<T>, "no JSON form: describe the struct or specialise json::Codec");
  }
}

}  // namespace detail

// Tree to T; `where` starts the error text.
template <class T>
Result<T> FromValue(const Value& value, std::string_view where,
                    std::source_location at = std::source_location::current()) {
  detail::Reader reader(where);
  T out{};
  if (!detail::Read(reader, value, detail::Step{}, out)) return reader.Take(at);
  return out;
}

// Text to T: ParseTree, then FromValue.
template <class T>
Result<T> Parse(std::string_view text, std::string_view where, size_t limit = 16 << 20) {
  const Value tree = TRY(ParseTree(text, where, limit));
  return FromValue<T>(tree, where);
}

template <class T>
Value ToValue(const T& value, Omit omit = Omit::kNothing) {
  return detail::Write(value, omit);
}
template <class T>
std::string ToText(const T& value, Omit omit = Omit::kNothing) {  // compact
  return Serialize(detail::Write(value, omit));
}

}  // namespace berth::json
