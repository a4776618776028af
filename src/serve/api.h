// The API's routes over an engine.
#pragma once
#include <atomic>
#include <memory>

#include "serve/engine_host.h"
#include "serve/generation.h"
#include "serve/router.h"
#include "serve/work_pool.h"

namespace weft {

struct ApiOptions {
  size_t max_open_requests = 768;  // running and waiting together; more are answered with 429
  int work_threads = 1;            // for parsing, templates and tokenizing
  GenerationOptions generation;
};

class Api {
 public:
  // All must outlive it; the server must have ended its run() before it is destroyed.
  Api(HttpServer& server, EngineHost& host, std::shared_ptr<const ServedModel> model, Metrics& metrics,
      const ApiOptions& options);
  // Adds every route of openapi.json, and the web page.
  void add_routes(Router& router);
  Generations& generations() { return generations_; }

 private:
  using Reply = std::shared_ptr<HttpReply>;
  using Maker = ApiFault (*)(const ServedModel&, const Json&, GenerationSpec*);
  void generate(Maker maker, Call call, const Reply& reply);
  // Runs `make` on the pool with the parsed body; it gives the answer.
  void answer(Call call, const Reply& reply, std::function<HttpResponse(const ServedModel&, const Json&)> make);

  HttpServer& server_;
  EngineHost& host_;
  const std::shared_ptr<const ServedModel> model_;
  Metrics& metrics_;
  const ApiOptions options_;
  const i64 created_;
  Generations generations_;
  size_t in_pool_ = 0;  // requests for text that are being prepared
  WorkPool pool_;       // last: ends first
};

// The engine's counters as JSON, for pages and tools.
Json stats_json(const EngineStats& stats, const std::vector<int>& pids);

}  // namespace weft
