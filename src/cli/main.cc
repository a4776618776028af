#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "device/cpu_features.h"

namespace weft {
namespace {

// Insertions, deletions and replacements between two words (Levenshtein).
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// The innermost command that the command line names: `bench op` of `weft bench op`.
const CLI::App& named_command(const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().back();
  return *command;
}

std::vector<const CLI::App*> subcommands(const CLI::App& command) {
  return command.get_subcommands([](const CLI::App*) { return true; });
}

// "; did you mean '--threads'?" or nothing.
std::string suggestion(const CLI::App& command, const std::string& unknown) {
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  for (const CLI::App* sub : subcommands(command)) known.push_back(sub->get_name());
  const std::string word = unknown.substr(0, unknown.find('='));
  std::string best;
  size_t distance = word.size() / 2 + 1;
  for (const std::string& name : known) {
    if (const size_t d = edit_distance(word, name); d < distance) distance = d, best = name;
  }
  return best.empty() ? "" : fmt::format("; did you mean '{}'?", best);
}

int run(int argc, char** argv) {
  CLI::App app("weft: distributed inference for large language models");
  app.set_version_flag("--version", "weft " WEFT_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& fault) { return fmt::format("weft: {}\n", fault.what()); });
  std::string log_level = "warn";
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error or off")->capture_default_str();
  app.parse_complete_callback([&] {
    finish(init_logging(log_level));
    finish(check_cpu_isa());
  });
  add_generate(app);
  add_chat(app);
  add_fetch(app);
  add_info(app);
  add_models(app);
  add_tokenize(app);
  add_check(app);
  add_launch(app);
  add_bench(app);
  add_selftest(app);
  add_serve(app);
  add_serve_rank(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& fault) {
    return fault.get_exit_code();
  } catch (const CLI::ParseError& fault) {
    const std::vector<std::string> left_over = app.remaining(/*recurse=*/true);
    const CLI::App& command = named_command(app);
    const bool unexpected = dynamic_cast<const CLI::ExtrasError*>(&fault);
    const bool missing = dynamic_cast<const CLI::RequiredError*>(&fault);
    // What is missing may be what is misspelt: `--modle X` comes before "--model is required".
    const auto unknown = std::ranges::find_if(left_over, [&](const std::string& word) {
      const bool is_flag = word.size() > 2 && word.starts_with("--");
      return unexpected || (missing && (is_flag || !subcommands(command).empty()));
    });
    if (unknown != left_over.end()) {
      fmt::print(stderr, "weft: unknown argument '{}'{}\n", *unknown, suggestion(command, *unknown));
      return 2;
    }
    return app.exit(fault) == 0 ? 0 : 2;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    fmt::print(stderr, "weft: cannot write to stdout: {}\n", errno_text());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  try {
    return weft::run(argc, argv);
  } catch (const std::exception& fault) {  // a library's: bad_alloc and the like
    fmt::print(stderr, "weft: {}\n", fault.what());
    return 1;
  }
}
