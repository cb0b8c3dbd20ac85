#include "cri/describe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include "cri/check.h"

namespace berth::cri {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kLimit = 1024;

bool IsSecret(const FieldDescriptor* field) {
  return SecretFields().contains(field->containing_type()->name() + "." + field->name());
}

void Append(const Message& message, std::string& out);

void AppendValue(const Message& message, const FieldDescriptor* field, int index, std::string& out) {
  const auto* r = message.GetReflection();
  std::string scratch;
  const bool many = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      out += '{';
      Append(many ? r->GetRepeatedMessage(message, field, index) : r->GetMessage(message, field), out);
      out += '}';
      break;
    case FieldDescriptor::CPPTYPE_STRING:
      out += Quote(many ? r->GetRepeatedStringReference(message, field, index, &scratch)
                        : r->GetStringReference(message, field, &scratch));
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      out += std::to_string(many ? r->GetRepeatedInt32(message, field, index) : r->GetInt32(message, field));
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      out += std::to_string(many ? r->GetRepeatedInt64(message, field, index) : r->GetInt64(message, field));
      break;
    case FieldDescriptor::CPPTYPE_UINT32:
      out += std::to_string(many ? r->GetRepeatedUInt32(message, field, index) : r->GetUInt32(message, field));
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      out += std::to_string(many ? r->GetRepeatedUInt64(message, field, index) : r->GetUInt64(message, field));
      break;
    case FieldDescriptor::CPPTYPE_ENUM:
      out += std::to_string(many ? r->GetRepeatedEnumValue(message, field, index) : r->GetEnumValue(message, field));
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      out += (many ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field)) ? "true" : "false";
      break;
    default:
      out += '?';
  }
}

void Append(const Message& message, std::string& out) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  bool first = true;
  for (const FieldDescriptor* field : fields) {
    if (out.size() > kLimit) return;
    if (!first) out += ' ';
    first = false;
    out += field->name() + "=";
    if (IsSecret(field)) {
      out += "***";
    } else if (field->is_repeated()) {
      out += '[';
      int size = message.GetReflection()->FieldSize(message, field);
      for (int i = 0; i < size && out.size() <= kLimit; ++i) {
        if (i > 0) out += ' ';
        AppendValue(message, field, i, out);
      }
      out += ']';
    } else {
      AppendValue(message, field, -1, out);
    }
  }
}

}  // namespace

const std::set<std::string_view>& SecretFields() {
  static const std::set<std::string_view> fields = {
      "AuthConfig.password",
      "AuthConfig.auth",
      "AuthConfig.identity_token",
      "AuthConfig.registry_token",
      "KeyValue.value",
      "PullRequest.password",
      "ExecStart.env",
      "ExecInput.stdin",
  };
  return fields;
}

std::string Describe(const Message& message) {
  std::string out;
  Append(message, out);
  if (out.size() > kLimit) {
    out.resize(kLimit);
    out += "...";
  }
  return out;
}

}  // namespace berth::cri
