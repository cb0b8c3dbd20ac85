#include <cstdio>

#include "cmd/berth/commands.h"

// Completion scripts, made from the command line's own definition, so that they cannot go stale.
namespace berth::cli {
namespace {

std::string Words(const CLI::App* app) {
  std::string words;
  for (const auto* sub : app->get_subcommands([](const CLI::App*) { return true; })) words += sub->get_name() + " ";
  for (const auto* option : app->get_options()) {
    for (const auto& name : option->get_lnames()) words += "--" + name + " ";
    for (const auto& name : option->get_snames()) words += "-" + name + " ";
  }
  return words;
}

// What the arguments of a command name: containers, pods, images or nothing.
const char* Completes(const std::string& command) {
  for (const char* c : {"logs", "exec", "stop", "rm", "stats"})
    if (command == c) return "containers";
  for (const char* c : {"stopp", "rmp"})
    if (command == c) return "pods";
  for (const char* c : {"run", "save", "rmi"})
    if (command == c) return "images";
  if (command == "inspect") return "all";
  return "";
}

std::string Bash(const CLI::App* app) {
  std::string script =
      "_berth_names() {\n"
      "  case $1 in\n"
      "    containers|all) berth ps --all 2>/dev/null | awk 'NR>1{print $2}' ;;\n"
      "  esac\n"
      "  case $1 in pods|all) berth pods 2>/dev/null | awk 'NR>1{print $3}' ;; esac\n"
      "  case $1 in images|all) berth images 2>/dev/null | awk 'NR>1{print $1}' ;; esac\n"
      "}\n"
      "_berth() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} command= i names=\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case ${COMP_WORDS[i]} in -*) ;; *) command=${COMP_WORDS[i]}; break ;; esac\n"
      "  done\n"
      "  case $command in\n";
  for (const auto* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
    std::string kind = Completes(sub->get_name());
    script += fmt::format(
        "    {}) names='{}'{} ;;\n", sub->get_name(), Words(sub),
        kind.empty() ? "" : fmt::format("\n      case $word in -*) ;; *) names=$(_berth_names {}) ;; esac", kind));
  }
  script += fmt::format(
      "    *) names='{}' ;;\n"
      "  esac\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$names\" -- \"$word\")\n"
      "}}\n"
      "complete -o default -F _berth berth\n",
      Words(app));
  return script;
}

std::string Fish(const CLI::App* app) {
  std::string script = "complete -c berth -f\n";
  for (const auto* sub : app->get_subcommands([](const CLI::App*) { return true; })) {
    std::string help = sub->get_description().substr(0, sub->get_description().find('\n'));
    std::erase(help, '\'');
    script += fmt::format("complete -c berth -n __fish_use_subcommand -a {} -d '{}'\n", sub->get_name(), help);
    for (const auto* option : sub->get_options())
      for (const auto& name : option->get_lnames())
        script += fmt::format("complete -c berth -n '__fish_seen_subcommand_from {}' -l {}\n", sub->get_name(), name);
  }
  return script;
}

}  // namespace

void AddCompletion(CLI::App& app, Context& context) {
  auto shell = std::make_shared<std::string>();
  auto* completion = app.add_subcommand("completion", "Prints a completion script: source <(berth completion bash)");
  completion->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([=, &app, &context] {
    context.action = [=, &app]() -> Result<int> {
      if (*shell == "fish")
        fmt::print("{}", Fish(&app));
      else
        fmt::print("{}{}", *shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "", Bash(&app));
      return 0;
    };
  });
}

}  // namespace berth::cli
