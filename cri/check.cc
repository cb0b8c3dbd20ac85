#include "cri/check.h"

#include <arpa/inet.h>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "base/utf8.h"

namespace berth::cri {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kStringLimit = 1 << 20;
constexpr int kElementLimit = 65536;

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string EnumChoices(const FieldDescriptor& field) {
  std::string out;
  const auto* type = field.enum_type();
  for (int i = 0; i < type->value_count(); ++i) {
    if (i == 8) return out + ", ...";
    out += fmt::format("{}{} ({})", i == 0 ? "" : ", ", type->value(i)->name(), type->value(i)->number());
  }
  return out;
}

// The path is built only for the error: the walk goes down with a chain of frames on the stack.
struct Frame {
  const Frame* parent;
  const FieldDescriptor* field;
  int index = -1;             // repeated
  std::string_view key = {};  // map
};

std::string PathOf(const Frame* frame) {
  if (frame == nullptr) return "";
  std::string path = PathOf(frame->parent);
  if (frame->field->containing_type()->options().map_entry()) return path;  // the entry's frame has the key
  if (!path.empty()) path += '.';
  path += frame->field->name();
  if (frame->field->is_map())
    path += fmt::format("[{}]", Quote(frame->key));
  else if (frame->index >= 0)
    path += fmt::format("[{}]", frame->index);
  return path;
}

Result<void> CheckString(const Frame& frame, const std::string& text) {
  if (frame.field->type() == FieldDescriptor::TYPE_BYTES) return {};
  if (text.size() > kStringLimit)
    return Bad(PathOf(&frame), fmt::format("must be at most {} bytes, has {}", kStringLimit, text.size()));
  if (text.find('\0') != std::string::npos) return Bad(PathOf(&frame), "must not contain NUL bytes");
  return {};
}

Result<void> CheckEnum(const Frame& frame, int number) {
  if (frame.field->enum_type()->FindValueByNumber(number) != nullptr) return {};
  return Bad(PathOf(&frame), fmt::format("{} is not one of {}", number, EnumChoices(*frame.field)));
}

Result<void> Walk(const Message& message, const Frame* parent) {
  const Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  std::string scratch;
  for (const FieldDescriptor* field : fields) {
    Frame frame{parent, field};
    if (field->is_repeated()) {
      int size = reflection->FieldSize(message, field);
      if (size > kElementLimit)
        return Bad(PathOf(&frame), fmt::format("must have at most {} elements, has {}", kElementLimit, size));
      for (int i = 0; i < size; ++i) {
        frame.index = i;
        switch (field->cpp_type()) {
          case FieldDescriptor::CPPTYPE_STRING:
            TRY(CheckString(frame, reflection->GetRepeatedStringReference(message, field, i, &scratch)));
            break;
          case FieldDescriptor::CPPTYPE_ENUM:
            TRY(CheckEnum(frame, reflection->GetRepeatedEnumValue(message, field, i)));
            break;
          case FieldDescriptor::CPPTYPE_MESSAGE: {
            const Message& item = reflection->GetRepeatedMessage(message, field, i);
            if (field->is_map())
              frame.key = item.GetReflection()->GetStringReference(item, field->message_type()->map_key(), &scratch);
            std::string key(frame.key);  // `scratch` is used again below
            frame.key = key;
            TRY(Walk(item, &frame));
            break;
          }
          default:
            break;
        }
      }
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        TRY(CheckString(frame, reflection->GetStringReference(message, field, &scratch)));
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        TRY(CheckEnum(frame, reflection->GetEnumValue(message, field)));
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        TRY(Walk(reflection->GetMessage(message, field), &frame));
        break;
      default:
        break;
    }
  }
  return {};
}

Result<void> CheckParts(std::string_view field, std::string_view path) {
  if (path.size() > 4095) return Bad(field, fmt::format("must be at most 4095 bytes, has {}", path.size()));
  for (size_t begin = 0; begin <= path.size();) {
    size_t end = std::min(path.find('/', begin), path.size());
    std::string_view part = path.substr(begin, end - begin);
    if (part == "..") return Bad(field, fmt::format("must not contain a `..` part, got {}", Quote(path)));
    if (part.size() > 255)
      return Bad(field, fmt::format("each part must be at most 255 bytes, one has {}", part.size()));
    begin = end + 1;
  }
  if (std::ranges::any_of(path, IsControl))
    return Bad(field, fmt::format("must not contain control characters, got {}", Quote(path)));
  return {};
}

}  // namespace

Result<void> CheckShape(const Message& message) { return Walk(message, nullptr); }

std::unexpected<Error> Bad(std::string_view field, std::string_view rule) {
  return Err(Code::kInvalidArgument, "{}: {}", field, rule);
}

std::unexpected<Error> NotYet(std::string_view field, std::string_view what) {
  return Err(Code::kUnimplemented, "{}: {}", field, what);
}

std::string Quote(std::string_view text) {
  constexpr size_t kShown = 64;
  std::string out = "\"";
  size_t i = 0;
  while (i < text.size() && i < kShown) {
    size_t n = Utf8Sequence(text.substr(i));
    if (n == 0 || IsControl(text[i])) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i++]));
    } else {
      out += text.substr(i, n);
      i += n;
    }
  }
  out += i < text.size() ? fmt::format("\"... ({} bytes)", text.size()) : "\"";
  return out;
}

Result<void> CheckName(std::string_view field, std::string_view value, size_t limit) {
  if (value.empty()) return Bad(field, "must not be empty");
  if (value.size() > limit) return Bad(field, fmt::format("must be at most {} bytes, has {}", limit, value.size()));
  if (std::ranges::any_of(value, IsControl) || value.find('/') != std::string_view::npos)
    return Bad(field, fmt::format("must not contain slashes or control characters, got {}", Quote(value)));
  return {};
}

Result<void> CheckAbsolutePath(std::string_view field, std::string_view value) {
  if (value.empty()) return Bad(field, "must not be empty; an absolute path is wanted");
  if (value.front() != '/') return Bad(field, fmt::format("must be an absolute path, got {}", Quote(value)));
  return CheckParts(field, value);
}

Result<void> CheckRelativePath(std::string_view field, std::string_view value) {
  if (value.empty()) return Bad(field, "must not be empty; a relative path is wanted");
  if (value.front() == '/') return Bad(field, fmt::format("must be a relative path, got {}", Quote(value)));
  return CheckParts(field, value);
}

Result<void> CheckAddress(std::string_view field, std::string_view value) {
  unsigned char address[16];
  std::string text(value);
  if (::inet_pton(AF_INET, text.c_str(), address) == 1 || ::inet_pton(AF_INET6, text.c_str(), address) == 1) return {};
  return Bad(field, fmt::format("must be an IPv4 or IPv6 address such as 10.0.0.1, got {}", Quote(value)));
}

Result<void> CheckWord(std::string_view field, std::string_view value, size_t limit) {
  if (value.empty()) return Bad(field, "must not be empty");
  if (value.size() > limit) return Bad(field, fmt::format("must be at most {} bytes, has {}", limit, value.size()));
  if (std::ranges::any_of(value, [](char c) { return IsControl(c) || c == ' '; }))
    return Bad(field, fmt::format("must not contain blanks or control characters, got {}", Quote(value)));
  return {};
}

Result<void> CheckRange(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return {};
  return Bad(field, fmt::format("must be {} to {}, got {}", low, high, value));
}

}  // namespace berth::cri
