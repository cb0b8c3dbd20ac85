#include "cni/plugins/keys.h"

namespace berth::cni {

const json::Value* Keys::Find(std::string_view key) {
  read_.insert(std::string(key));
  const json::Value* v = object_.if_contains(key);
  return v && !v->is_null() ? v : nullptr;
}

void Keys::Fail(std::string_view key, std::string_view why) {
  if (!error_) error_ = Err(Code::kInvalidArgument, "{}: {}", Where(key), why).error();
}

void Keys::WrongType(std::string_view key, std::string_view expected, const json::Value& got) {
  std::string_view kind = got.is_string()   ? "string"
                          : got.is_bool()   ? "boolean"
                          : got.is_object() ? "object"
                          : got.is_array()  ? "array"
                                            : "number";
  Fail(key, fmt::format("expected {}, got {}", expected, kind));
}

bool Keys::Bool(std::string_view key, bool otherwise) {
  const json::Value* v = Find(key);
  if (!v) return otherwise;
  if (!v->is_bool()) return WrongType(key, "boolean", *v), otherwise;
  return v->get_bool();
}

int64_t Keys::Int(std::string_view key, int64_t low, int64_t high, int64_t otherwise) {
  const json::Value* v = Find(key);
  if (!v) return otherwise;
  if (!v->is_int64() && !v->is_uint64()) return WrongType(key, "integer", *v), otherwise;
  int64_t n = v->is_int64() ? v->get_int64() : INT64_MAX;
  if (n < low || n > high) return Fail(key, fmt::format("must be {} to {}", low, high)), otherwise;
  return n;
}

std::string Keys::Text(std::string_view key, std::string otherwise) {
  const json::Value* v = Find(key);
  if (!v) return otherwise;
  if (!v->is_string()) return WrongType(key, "string", *v), otherwise;
  return std::string(v->get_string());
}

std::vector<std::string> Keys::Texts(std::string_view key) {
  std::vector<std::string> out;
  const json::Array* a = Array(key);
  if (!a) return out;
  for (size_t i = 0; i < a->size(); ++i) {
    if (!(*a)[i].is_string()) return Fail(fmt::format("{}[{}]", key, i), "expected string"), out;
    out.emplace_back((*a)[i].get_string());
  }
  return out;
}

const json::Object* Keys::Object(std::string_view key) {
  const json::Value* v = Find(key);
  if (!v) return nullptr;
  if (!v->is_object()) return WrongType(key, "object", *v), nullptr;
  return &v->get_object();
}

const json::Array* Keys::Array(std::string_view key) {
  const json::Value* v = Find(key);
  if (!v) return nullptr;
  if (!v->is_array()) return WrongType(key, "array", *v), nullptr;
  return &v->get_array();
}

std::string Keys::Unread() const {
  for (const auto& [key, value] : object_)
    if (!value.is_null() && !read_.contains(std::string(key))) return std::string(key);
  return "";
}

}  // namespace berth::cni
