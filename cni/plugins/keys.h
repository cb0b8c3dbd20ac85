#pragma once
// Reading a plugin's configuration object key by key: wrong types are errors that name the key, and the keys nobody
// read are known afterwards, because a plugin that runs in-process must honour all of them.
#include <set>
#include <string>
#include <string_view>

#include "base/json.h"

namespace berth::cni {

class Keys {
 public:
  // `where` begins every error: "10-net.conflist: plugins[0]"; one that ends in a space is followed by the key without
  // a dot ("10-net.conflist: name"). `object` is borrowed.
  Keys(const json::Object& object, std::string where) : object_(object), where_(std::move(where)) {}

  // Null counts as absent. After the first wrong type everything returns its default, and `error` holds it.
  bool Bool(std::string_view key, bool otherwise = false);
  int64_t Int(std::string_view key, int64_t low, int64_t high, int64_t otherwise = 0);
  std::string Text(std::string_view key, std::string otherwise = "");
  std::vector<std::string> Texts(std::string_view key);
  const json::Object* Object(std::string_view key);
  const json::Array* Array(std::string_view key);
  void Ignore(std::string_view key) { read_.insert(std::string(key)); }
  void Fail(std::string_view key, std::string_view why);  // "<where>.<key>: <why>"
  void Adopt(const std::optional<Error>& error) {
    if (error && !error_) error_ = error;
  }  // of a nested object

  const std::optional<Error>& error() const { return error_; }
  std::string Unread() const;  // the first key nobody asked for, or ""
  std::string Where(std::string_view key) const {
    return where_ + (where_.ends_with(' ') ? "" : ".") + std::string(key);
  }
  const std::string& where() const { return where_; }

 private:
  const json::Value* Find(std::string_view key);
  void WrongType(std::string_view key, std::string_view expected, const json::Value& got);
  const json::Object& object_;
  std::string where_;
  std::set<std::string> read_;
  std::optional<Error> error_;
};

}  // namespace berth::cni
