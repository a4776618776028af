#include "serve/api.h"

#include <ctime>

#include "base/log.h"
#include "serve/page.h"

namespace weft {
namespace {

Json model_json(const ServedModel& model, const std::string& name, i64 created) {
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "weft"},
          {"root", model.limits.models.front()},
          {"parent", nullptr},
          {"max_model_len", model.limits.context}};
}

// The JSON of a body; or the fault to answer with.
ApiFault read_body(const HttpRequest& request, Json* body) {
  const std::string_view encoding = request.header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    return ApiError{.status = 415, .message = "Content-Encoding is not supported.", .code = "unsupported_encoding"};
  }
  auto parsed = parse_json(request.body);
  if (!parsed.ok()) return ApiError{.message = parsed.status().message(), .code = "invalid_json"};
  *body = std::move(*parsed);
  return {};
}

HttpResponse tokenize(const ServedModel& model, const Json& body) {
  if (const ApiFault fault = check_request(model, "TokenizeRequest", body)) return error_response(*fault);
  auto flag = [&](const char* key, bool otherwise) {
    const Json value = body.value(key, Json());
    return value.is_boolean() ? value.get<bool>() : otherwise;
  };
  const bool chat = !body.value("messages", Json()).is_null();
  const bool text = !body.value("prompt", Json()).is_null();
  if (chat == text) {
    return error_response({.message = "Expected either 'prompt' or 'messages'.",
                           .param = "prompt",
                           .code = text ? "invalid_value" : "missing_required_parameter"});
  }
  std::string prompt;
  if (text) {
    prompt = body["prompt"];
  } else if (const ApiFault fault = render_conversation(model, body, true, &prompt)) {
    return error_response(*fault);
  }
  const auto ids =
      model.tokenizer.encode(prompt, {.add_special = flag("add_special_tokens", text), .parse_special = true});
  if (!ids.ok()) {
    return error_response(
        {.message = ids.status().message(), .param = text ? "prompt" : "messages", .code = "invalid_value"});
  }
  Json strings;
  if (flag("return_token_strs", false)) {
    strings = Json::array();
    for (const i32 id : *ids) strings.push_back(model.tokenizer.token(id).ok() ? *model.tokenizer.token(id) : "");
  }
  return json_response(
      {{"count", ids->size()}, {"max_model_len", model.limits.context}, {"tokens", *ids}, {"token_strs", strings}});
}

HttpResponse detokenize(const ServedModel& model, const Json& body) {
  if (const ApiFault fault = check_request(model, "DetokenizeRequest", body)) return error_response(*fault);
  const auto text = model.tokenizer.decode(body["tokens"].get<std::vector<i32>>(), /*skip_special=*/false);
  if (!text.ok())
    return error_response({.message = text.status().message(), .param = "tokens", .code = "invalid_value"});
  return json_response({{"prompt", *text}});
}

}  // namespace

Json stats_json(const EngineStats& stats, const std::vector<int>& pids) {
  return {{"ready", stats.health.ok()},
          {"message", stats.health.message()},
          {"rank_pids", pids},
          {"requests_open", stats.requests_open},
          {"running", stats.running},
          {"waiting", stats.waiting},
          {"queued_prompt_tokens", stats.queued_prompt_tokens},
          {"kv_pages_total", stats.kv_pages_total},
          {"kv_pages_used", stats.kv_pages_used},
          {"kv_pages_cached", stats.kv_pages_cached},
          {"page_tokens", stats.page_tokens},
          {"prefix_queries", stats.prefix_queries},
          {"prefix_hits", stats.prefix_hits},
          {"prompt_tokens", stats.prompt_tokens},
          {"generation_tokens", stats.generation_tokens},
          {"preemptions", stats.preemptions},
          {"steps", stats.steps},
          {"step_rows", stats.step_rows},
          {"step_tokens", stats.step_tokens},
          {"drafted_tokens", stats.drafted_tokens},
          {"accepted_tokens", stats.accepted_tokens},
          {"finished_stop", stats.finished_stop},
          {"finished_length", stats.finished_length},
          {"finished_aborted", stats.finished_aborted},
          {"finished_error", stats.finished_error},
          {"refused", stats.refused},
          {"step_seconds", stats.step_s},
          {"schedule_seconds", stats.schedule_s},
          {"last_step_seconds", stats.last_step_s},
          {"rank_step_seconds", stats.rank_step_s},
          {"seconds_since_step", stats.since_step_s}};
}

Api::Api(HttpServer& server, EngineHost& host, std::shared_ptr<const ServedModel> model, Metrics& metrics,
         const ApiOptions& options)
    : server_(server),
      host_(host),
      model_(std::move(model)),
      metrics_(metrics),
      options_(options),
      created_(std::time(nullptr)),
      generations_(server, host, metrics, options.generation),
      pool_(options.work_threads) {}

void Api::add_routes(Router& router) {
  auto generates = [&](const char* path, Maker maker) {
    router.add("POST", path, Access::kKey,
               [this, maker](Call call, const Reply& reply) { generate(maker, std::move(call), reply); });
  };
  generates("/v1/chat/completions", make_chat);
  generates("/v1/completions", make_completion);
  generates("/v1/responses", make_responses);
  router.add("POST", "/tokenize", Access::kKey,
             [this](Call call, const Reply& reply) { answer(std::move(call), reply, tokenize); });
  router.add("POST", "/detokenize", Access::kKey,
             [this](Call call, const Reply& reply) { answer(std::move(call), reply, detokenize); });
  router.add("GET", "/v1/models", Access::kKey, [this](const Call&, const Reply& reply) {
    Json list = Json::array();
    for (const std::string& name : model_->limits.models) list.push_back(model_json(*model_, name, created_));
    reply->respond(json_response({{"object", "list"}, {"data", list}}));
  });
  router.add("GET", "/v1/models/*", Access::kKey, [this](const Call& call, const Reply& reply) {
    for (const std::string& name : model_->limits.models) {
      if (name == call.tail) return reply->respond(json_response(model_json(*model_, name, created_)));
    }
    reply->respond(error_response({.status = 404,
                                   .message = "The model `" + call.tail + "` does not exist.",
                                   .param = "model",
                                   .code = "model_not_found"}));
  });
  router.add("GET", "/health", Access::kOpen, [this](const Call&, const Reply& reply) {
    const Status ready = host_.ready();
    reply->respond(ready.ok() ? json_response({{"status", "ok"}}) : error_response(not_ready(ready.message())));
  });
  router.add("GET", "/live", Access::kOpen,
             [](const Call&, const Reply& reply) { reply->respond(json_response({{"status", "ok"}})); });
  router.add("GET", "/stats", Access::kKey, [this](const Call&, const Reply& reply) {
    Json stats = stats_json(host_.stats(), host_.pids());
    stats["model"] = model_->limits.models.front();
    stats["connections"] = server_.num_connections();
    reply->respond(json_response(stats));
  });
  router.add("GET", "/metrics", Access::kKey, [this](const Call&, const Reply& reply) {
    metrics_.set_connections(double(server_.num_connections()));
    reply->respond(
        {.headers = {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}}, .body = metrics_.text()});
  });
  router.add("GET", "/version", Access::kKey, [this](const Call&, const Reply& reply) {
    reply->respond(json_response({{"version", model_->limits.version}}));
  });
  for (const PageFile& file : page_files()) {
    router.add("GET", std::string(file.path), Access::kOpen, [&file](const Call& call, const Reply& reply) {
      const PageAnswer page =
          answer_page(file, call.request.header("if-none-match"), call.request.header("accept-encoding"));
      HttpResponse response{.status = page.status, .body = std::string(page.body)};
      for (const auto& [name, value] : page.headers) response.headers.emplace_back(name, value);
      reply->respond(std::move(response));
    });
  }
  router.add("GET", "/openapi.json", Access::kKey,
             [this](const Call&, const Reply& reply) { reply->respond(json_response(model_->schema.document())); });
}

void Api::generate(Maker maker, Call call, const Reply& reply) {
  if (const Status ready = host_.ready(); !ready.ok())
    return reply->respond(error_response(not_ready(ready.message())));
  if (in_pool_ + generations_.num_open() >= options_.max_open_requests) {
    return reply->respond(
        error_response(api_error(error(Code::kResourceExhausted, "{} requests are open, which is the most there may be",
                                       options_.max_open_requests))));
  }
  ++in_pool_;
  pool_.run([this, maker, call = std::move(call), reply] {
    Json body;
    auto spec = std::make_shared<GenerationSpec>();
    ApiFault fault = read_body(call.request, &body);
    try {
      if (!fault) fault = maker(*model_, body, spec.get());
    } catch (const std::exception& thrown) {  // of a library: memory, say
      spdlog::error("{}: {}", call.id, thrown.what());
      fault = internal_error("The request failed inside the server.");
    }
    server_.post([this, fault, spec, reply, id = call.id, since = call.request.start] {
      --in_pool_;
      if (fault) return reply->respond(error_response(*fault));
      generations_.start(model_, std::move(*spec), reply, id, since);
    });
  });
}

void Api::answer(Call call, const Reply& reply, std::function<HttpResponse(const ServedModel&, const Json&)> make) {
  pool_.run([this, make = std::move(make), call = std::move(call), reply] {
    Json body;
    HttpResponse response;
    try {
      const ApiFault fault = read_body(call.request, &body);
      response = fault ? error_response(*fault) : make(*model_, body);
    } catch (const std::exception& thrown) {
      spdlog::error("{}: {}", call.id, thrown.what());
      response = error_response(internal_error("The request failed inside the server."));
    }
    server_.post([reply, response = std::move(response)] { reply->respond(response); });
  });
}

}  // namespace weft
