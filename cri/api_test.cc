// The interface against the table of the public definition, row by row and both ways: nothing missing, nothing added.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "api.pb.h"
#include "cri/describe.h"

namespace berth::cri {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

const FileDescriptor* File() { return ::runtime::v1::VersionRequest::descriptor()->file(); }

std::vector<std::vector<std::string>> Rows() {
  const char* source = std::getenv("BERTH_SOURCE_DIR");
  std::ifstream in(std::string(source == nullptr ? "." : source) + "/cri/testdata/cri-v1.tsv");
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::vector<std::string> cells;
    std::stringstream columns(line);
    for (std::string cell; std::getline(columns, cell, '\t');) cells.push_back(cell);
    cells.resize(9);
    rows.push_back(std::move(cells));
  }
  return rows;
}

std::string Relative(const std::string& full_name) {
  constexpr std::string_view kPackage = "runtime.v1.";
  return full_name.starts_with(kPackage) ? full_name.substr(kPackage.size()) : full_name;
}

std::string TypeOf(const FieldDescriptor* field) {
  if (field->is_map())
    return fmt::format("map<{},{}>", TypeOf(field->message_type()->map_key()),
                       TypeOf(field->message_type()->map_value()));
  if (field->type() == FieldDescriptor::TYPE_MESSAGE) return Relative(field->message_type()->full_name());
  if (field->type() == FieldDescriptor::TYPE_ENUM) return Relative(field->enum_type()->full_name());
  return field->type_name();
}

// The file as rows of the table's form, `since` and old names left out.
std::set<std::string> Actual() {
  std::set<std::string> out;
  for (int s = 0; s < File()->service_count(); ++s)
    for (int m = 0; m < File()->service(s)->method_count(); ++m) {
      const auto* method = File()->service(s)->method(m);
      EXPECT_FALSE(method->client_streaming());
      out.insert(fmt::format("rpc {} {} {} {} {}", File()->service(s)->full_name(), method->name(),
                             Relative(method->input_type()->full_name()), Relative(method->output_type()->full_name()),
                             method->server_streaming() ? "server-stream" : "unary"));
    }
  auto enumeration = [&](const google::protobuf::EnumDescriptor* type) {
    for (int v = 0; v < type->value_count(); ++v)
      out.insert(
          fmt::format("enum {} {} {}", Relative(type->full_name()), type->value(v)->name(), type->value(v)->number()));
  };
  for (int e = 0; e < File()->enum_type_count(); ++e) enumeration(File()->enum_type(e));
  for (int i = 0; i < File()->message_type_count(); ++i) {
    const auto* message = File()->message_type(i);
    out.insert(fmt::format("message {} {}", message->name(), message->field_count()));
    EXPECT_EQ(message->oneof_decl_count(), 0) << message->name();
    EXPECT_EQ(message->reserved_range_count(), 0) << message->name();
    for (int e = 0; e < message->enum_type_count(); ++e) enumeration(message->enum_type(e));
    for (int f = 0; f < message->field_count(); ++f) {
      const auto* field = message->field(f);
      bool secret = SecretFields().contains(message->name() + "." + field->name()) && message->name() != "KeyValue";
      out.insert(fmt::format("field {} {} {} {} {} {}", message->name(), field->name(), field->number(), TypeOf(field),
                             field->is_map()        ? "map"
                             : field->is_repeated() ? "repeated"
                                                    : "singular",
                             field->options().deprecated() ? "deprecated"
                             : secret                      ? "redact"
                                                           : ""));
    }
  }
  return out;
}

std::set<std::string> Expected() {
  std::set<std::string> out;
  for (const auto& r : Rows()) {
    if (r[0] == "rpc")
      out.insert(fmt::format("rpc {} {} {} {} {}", r[1], r[2], r[3], r[4], r[5]));
    else if (r[0] == "message")
      out.insert(fmt::format("message {} {}", r[1], r[2]));
    else if (r[0] == "enum")
      out.insert(fmt::format("enum {} {} {}", r[1], r[2], r[3]));
    else if (r[0] == "field")
      out.insert(fmt::format("field {} {} {} {} {} {}", r[1], r[2], r[3], r[4], r[5], r[8]));
    else
      ADD_FAILURE() << "unknown row " << r[0];
  }
  return out;
}

TEST(Api, IsThePublicInterface) {
  std::set<std::string> expected = Expected(), actual = Actual();
  ASSERT_EQ(expected.size(), 43u + 175u + 478u + 95u);
  for (const auto& row : expected) EXPECT_TRUE(actual.contains(row)) << "missing: " << row;
  for (const auto& row : actual) EXPECT_TRUE(expected.contains(row)) << "not in the table: " << row;
}

TEST(Api, PackageAndSyntax) {
  EXPECT_EQ(File()->package(), "runtime.v1");
  EXPECT_EQ(File()->syntax(), FileDescriptor::SYNTAX_PROTO3);
  EXPECT_EQ(File()->options().go_package(), "k8s.io/cri-api/pkg/apis/runtime/v1");
  EXPECT_EQ(File()->dependency_count(), 0);
}

}  // namespace
}  // namespace berth::cri
