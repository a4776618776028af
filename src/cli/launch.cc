// `weft launch -n N -- command...`: runs a command as N ranks of this host.
#include "comm/bootstrap/launcher.h"

#include <memory>

#include "cli/commands.h"

namespace weft {

void add_launch(CLI::App& app) {
  struct Flags {
    int ranks = 0;
    bool raw = false;
    std::vector<std::string> command;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* launch = app.add_subcommand("launch", "Run a command as several ranks on this host");
  launch->add_option("-n,--ranks", flags->ranks, "Number of ranks")->required()->check(CLI::Range(1, kMaxWorldSize));
  launch->add_flag("--raw", flags->raw, "Do not put \"[rank] \" before the lines that the ranks write");
  launch->add_option("command", flags->command, "The command and its arguments, after --; `weft` is this program")
      ->required();
  launch->callback([flags] {
    LaunchOptions options;
    options.prefix = !flags->raw;
    const auto code = launch_local_ranks(flags->ranks, flags->command, options);
    if (code.ok() && *code != 0) throw CLI::RuntimeError(*code);
    finish(code.status());
  });
}

}  // namespace weft
