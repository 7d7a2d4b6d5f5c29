// examples/image_style/serve.hpp: `image_style serve`: a page on this machine; words are typed, pictures appear.
//
//   GET  /          the page, page.html
//   GET  /settings  {"style": ..., "side": 32, "adapters": [{"name", "style"}], "defaults": {...}, "limits": {...}}
//   POST /draw      {"prompt", "adapter", "strength", "seed", "steps", "guidance", "count"}: all but the prompt may be
//                   left out. Answered by an object a line, as things happen; pictures are PNG files in base64:
//                     {"waiting": 1}                                        drawings are before this one
//                     {"step": 3, "steps": 12, "pictures": [...]}           as they come out of the noise
//                     {"prompt": ..., "seeds": [7, 8], "seconds": 0.31, "pictures": [...]}    the last line,
//                     {"error": ...}                                                          or this one
//   All else is answered with a status from 400 on and {"error": ...}.
//
// A page from elsewhere in the same browser cannot draw or read: a request must name this machine in Host (a name that
// somebody's DNS points here does not count), have no other Origin, and be of a type that a form cannot send.
#pragma once
#include "page.hpp"
#include "painter.hpp"

#include <ftlib/core/version.hpp>

#include <arpa/inet.h>  // inet_pton
#include <unistd.h>     // gethostname

#include <httplib.h>
#include <CLI/CLI.hpp>

#include <algorithm>           // std::find
#include <array>               // std::array
#include <atomic>              // std::atomic
#include <cerrno>              // errno
#include <chrono>              // std::chrono
#include <condition_variable>  // std::condition_variable
#include <csignal>             // sigtimedwait
#include <cstdint>             // std::int64_t, std::uint64_t
#include <cstring>             // std::strerror
#include <deque>               // std::deque
#include <filesystem>          // std::filesystem::path
#include <iostream>            // std::cout
#include <memory>              // std::shared_ptr
#include <mutex>               // std::mutex
#include <optional>            // std::optional
#include <random>              // std::random_device
#include <set>                 // std::set
#include <string>              // std::string
#include <string_view>         // std::string_view
#include <thread>              // std::thread
#include <utility>             // std::move, std::pair
#include <vector>              // std::vector

namespace image_style {

struct ServeOptions {
  std::vector<std::filesystem::path> adapters = {};
  std::string host = "127.0.0.1";
  int port = 8080;  ///< 0: any that is free
};

/// What a request may ask for at most.
struct DrawLimits {
  static constexpr std::size_t body = 4096, prompt = 500;  // bytes
  static constexpr std::int64_t steps = 100, count = 8;
  static constexpr double strength = 1.5, guidance = 20;
  static constexpr std::uint64_t seed = (std::uint64_t{1} << 53) - 1;  // JavaScript counts so far
  static constexpr std::size_t drawings = 5;                           // the one that is drawn, and those that wait
  static constexpr std::size_t connections = 16;                       // served at once
};

/// A request that is answered with a status from 400 on.
class Refusal : public Error {
 public:
  Refusal(int status, const std::string& message) : Error(message), status_(status) {}
  int status() const { return status_; }

 private:
  int status_;
};

/// A request to draw, as it came and was found in order.
struct DrawRequest {
  std::string prompt;
  std::optional<std::size_t> adapter;  ///< its number; none: the base
  float strength = 1;
  std::uint64_t seed = 0;
  std::optional<float> guidance;      ///< none: the model's own
  std::optional<std::int64_t> steps;  ///< likewise
  std::int64_t count = 1;

  /// `adapters` are the names that may be asked for. Throws Refusal.
  static DrawRequest parse(std::string_view body, const std::vector<std::string>& adapters) try {
    const ft::Json json = ft::parse_json(body, "request");
    if (!json.is_object()) throw Refusal(400, "request: an object is expected");
    static const std::set<std::string> known{"prompt", "adapter", "strength", "seed", "steps", "guidance", "count"};
    for (const auto& [key, value] : json.items())
      if (!known.contains(key)) throw Refusal(400, "request: nothing is called " + ft::quote(key));

    DrawRequest r;
    r.prompt = ft::at<std::string>(json, "prompt", "request");
    if (r.prompt.find_first_not_of(' ') == std::string::npos) throw Refusal(400, "prompt: is empty");
    if (r.prompt.size() > DrawLimits::prompt)
      throw Refusal(400, str("prompt: has ", r.prompt.size(), " bytes, at most ", DrawLimits::prompt, " are read"));
    for (const char c : r.prompt)
      if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') throw Refusal(400, "prompt: has control characters");
    if (const auto name = ft::value_or<std::string>(json, "adapter", "", "request"); !name.empty()) {
      const auto found = std::find(adapters.begin(), adapters.end(), name);
      if (found == adapters.end()) throw Refusal(400, "adapter: there is none called " + ft::quote(name));
      r.adapter = static_cast<std::size_t>(found - adapters.begin());
    }
    const auto number = [&](const char* key, auto from, auto to, auto otherwise) {
      const auto value = ft::value_or<decltype(otherwise)>(json, key, otherwise, "request");
      if (!(value >= from && value <= to)) throw Refusal(400, str(key, ": ", value, " is not in ", from, " to ", to));
      return value;
    };
    r.strength = static_cast<float>(number("strength", 0.0, DrawLimits::strength, 1.0));
    const auto given = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
    if (given("guidance")) r.guidance = static_cast<float>(number("guidance", 0.0, DrawLimits::guidance, 1.0));
    if (given("steps")) r.steps = number("steps", std::int64_t{1}, DrawLimits::steps, std::int64_t{1});
    r.count = number("count", std::int64_t{1}, DrawLimits::count, r.count);
    r.seed = number("seed", std::uint64_t{0}, DrawLimits::seed, std::uint64_t{std::random_device{}()});
    return r;
  } catch (const Refusal&) {
    throw;
  } catch (const Error& e) {  // of JSON: what is wrong, and where
    throw Refusal(400, e.message());
  }
};

/// Lets one in at a time, in the order in which they came.
class Queue {
 public:
  /// A place in it, until it is destroyed.
  class Place {
   public:
    explicit Place(Queue& queue) : queue_(queue) {}
    ~Place() {
      const std::lock_guard lock(queue_.mutex_);
      queue_.places_.erase(std::find(queue_.places_.begin(), queue_.places_.end(), this));
      queue_.moved_.notify_all();
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    /// How many are before it: 0 at once, else after a while.
    std::size_t ahead(std::chrono::milliseconds a_while) const {
      std::unique_lock lock(queue_.mutex_);
      queue_.moved_.wait_for(lock, a_while, [&] { return queue_.places_.front() == this; });
      return static_cast<std::size_t>(std::find(queue_.places_.begin(), queue_.places_.end(), this) -
                                      queue_.places_.begin());
    }

   private:
    Queue& queue_;
  };

  /// Null where `most` are in it already.
  std::shared_ptr<Place> join(std::size_t most) {
    const std::lock_guard lock(mutex_);
    if (places_.size() >= most) return nullptr;
    auto place = std::make_shared<Place>(*this);
    places_.push_back(place.get());
    return place;
  }

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  std::deque<const Place*> places_;
};

namespace detail {

inline std::string base64(std::string_view bytes) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t k = i; k < i + 3; ++k)
      three = three << 8 | (k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? digits[three >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

/// The name in a Host header: "LocalHost:8080" is "localhost", "[::1]:8080" is "::1".
inline std::string host_name(std::string_view host) {
  if (host.starts_with('[')) host = host.substr(1, host.find(']') - 1);
  else host = host.substr(0, host.find(':'));
  std::string name(host);
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return name;
}
inline bool is_address(const std::string& name) {
  std::array<unsigned char, 16> bytes{};
  return inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 || inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}
inline bool is_loopback(const std::string& name) {
  return name == "localhost" || name == "::1" || (name.starts_with("127.") && is_address(name));
}
/// Whether a server that listens at `own` may be called `name`. Beyond loopback an address or the machine's own name
/// will do, which nobody's DNS can point elsewhere first and here later.
inline bool is_called(const std::string& name, const std::string& own) {
  if (is_loopback(name)) return true;
  if (is_loopback(own)) return false;
  std::array<char, 256> machine{};
  gethostname(machine.data(), machine.size() - 1);
  return is_address(name) || name == host_name(own) || name == host_name(machine.data());
}

}  // namespace detail

/// Serves the page from its construction to its destruction. The painter is its own for so long.
class Server {
 public:
  /// Throws Error where an adapter does not fit the base, or the address cannot be listened at.
  Server(Painter& painter, ServeOptions options) : painter_(painter), options_(std::move(options)) {
    load_adapters();
    configure();
    bind();
    thread_ = std::thread([this] {
      http_.listen_after_bind();
      ended_ = true;
    });
    while (!http_.is_running() && !ended_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  /// A drawing that is going on ends with its step.
  ~Server() {
    stopping_ = true;
    http_.stop();
    thread_.join();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const { return port_; }
  std::string url() const {
    const bool brackets = options_.host.find(':') != std::string::npos;
    return str("http://", brackets ? "[" : "", options_.host, brackets ? "]" : "", ":", port_, "/");
  }
  /// False where listening failed later on.
  bool running() const { return !ended_; }
  const std::vector<std::string>& adapters() const { return names_; }
  /// Of drawings: whoever joins it as well holds those back that come after.
  Queue& queue() { return queue_; }

 private:
  using Request = httplib::Request;
  using Response = httplib::Response;

  /// Thrown where whoever asked does not listen any more.
  struct ClientGone {};

  /// Hangs each onto the base once, so that one that does not fit is known before anybody draws.
  void load_adapters() {
    for (const auto& folder : options_.adapters) {
      load_adapter(painter_, folder);
      styles_.push_back(painter_.style());
      auto full = std::filesystem::absolute(folder).lexically_normal();
      if (!full.has_filename()) full = full.parent_path();  // "run/adapter/"
      const bool in_run = full.filename() == "adapter" && full.parent_path().has_filename();
      const auto name = (in_run ? full.parent_path() : full).filename().string();  // train writes RUN/adapter
      auto unique = name;
      for (int i = 2; std::find(names_.begin(), names_.end(), unique) != names_.end(); ++i) unique = str(name, " ", i);
      names_.push_back(unique);
    }
    painter_.remove_adapter();
  }

  void configure() {
    http_.new_task_queue = [] { return new httplib::ThreadPool(DrawLimits::connections); };
    http_.set_keep_alive_max_count(1);  // a thread a connection: none is kept by one that says nothing
    http_.set_keep_alive_timeout(2);
    http_.set_read_timeout(5);
    http_.set_write_timeout(5);
    http_.set_payload_max_length(DrawLimits::body);
    http_.set_tcp_nodelay(true);
    http_.set_default_headers(
        {{"Cache-Control", "no-store"},
         {"Content-Security-Policy",
          "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src "
          "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
         {"Cross-Origin-Resource-Policy", "same-origin"},
         {"Referrer-Policy", "no-referrer"},
         {"X-Content-Type-Options", "nosniff"}});
    http_.set_socket_options([](auto socket) {  // httplib's own lets a second server take half of the requests
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    http_.set_error_handler([](const Request&, Response& res) {  // what httplib itself refuses
      if (!res.body.empty()) return;
      refuse(res, res.status,
             res.status == 413   ? too_large()
             : res.status == 414 ? "the address is too long"
                                 : "this is not a request that can be read");
    });
    const auto without_body = [this](const Request& req, Response& res) { answer(req, res, nullptr); };
    const auto with_body = [this](const Request& req, Response& res, const httplib::ContentReader& body) {
      answer(req, res, &body);
    };
    http_.Get(".*", without_body).Options(".*", without_body);
    http_.Post(".*", with_body).Put(".*", with_body).Patch(".*", with_body).Delete(".*", with_body);
  }

  void bind() {
    const bool bound = options_.port == 0 ? (port_ = http_.bind_to_any_port(options_.host)) > 0
                                          : http_.bind_to_port(options_.host, port_ = options_.port);
    if (!bound)
      throw Error(str(options_.host, ":", options_.port, ": cannot be listened at: ", std::strerror(errno)),
                  "another program may; give another --port.");
  }

  static std::string too_large() { return str("the body has more than ", DrawLimits::body, " bytes"); }
  /// What is no UTF-8, of a path for example, is replaced.
  static std::string as_line(const ft::Json& json) {
    return json.dump(-1, ' ', false, ft::Json::error_handler_t::replace) + "\n";
  }
  static void refuse(Response& res, int status, const std::string& why) {
    res.status = status;
    res.set_content(as_line({{"error", why}}), "application/json");
  }

  void answer(const Request& req, Response& res, const httplib::ContentReader* reader) try {
    // The body first, whatever becomes of it: what closes on unread bytes may lose the answer as well.
    std::string body;
    if (reader && !read(req, *reader, body)) {
      const bool large = res.status == 413 || body.size() > DrawLimits::body;
      throw Refusal(large ? 413 : 400, large ? too_large() : "the body cannot be read");
    }
    check_origin(req);
    const auto method = [&](std::string_view wanted) {
      if (req.method == wanted || (req.method == "HEAD" && wanted == "GET")) return;
      res.set_header("Allow", std::string(wanted));
      throw Refusal(405, str(req.path, ": takes ", wanted));
    };
    if (req.path == "/") {
      method("GET");
      res.set_content(page.data(), page.size(), "text/html; charset=utf-8");
    } else if (req.path == "/settings") {
      method("GET");
      res.set_content(as_line(settings()), "application/json");
    } else if (req.path == "/draw") {
      method("POST");
      if (req.get_header_value("Content-Type").rfind("application/json", 0) != 0)
        throw Refusal(415, "/draw: takes application/json");
      draw(DrawRequest::parse(body, names_), res);
    } else {
      throw Refusal(404, "there is no such page");
    }
  } catch (const Refusal& e) {
    refuse(res, e.status(), e.message());
  } catch (const std::exception& e) {
    refuse(res, 500, e.what());
  }

  /// False where it is too long or cut short.
  static bool read(const Request& req, const httplib::ContentReader& reader, std::string& body) {
    const auto take = [&](const char* data, std::size_t size) {
      body.append(data, size);
      return body.size() <= DrawLimits::body;  // httplib counts only what the headers announce
    };
    if (req.is_multipart_form_data()) return reader([](const httplib::MultipartFormData&) { return true; }, take);
    return reader(take);
  }
  void check_origin(const Request& req) const {
    const auto host = req.get_header_value("Host");
    if (req.get_header_value_count("Host") != 1 || !detail::is_called(detail::host_name(host), options_.host))
      throw Refusal(403, "Host: " + ft::quote(host) + " is not this server's name");
    const auto origin = req.get_header_value("Origin");
    if (req.has_header("Origin") && origin != "http://" + host)
      throw Refusal(403, "Origin: " + ft::quote(origin) + " is not this server's page");
  }

  ft::Json settings() const {
    ft::Json adapters = ft::Json::array();
    for (std::size_t i = 0; i < names_.size(); ++i) adapters.push_back({{"name", names_[i]}, {"style", styles_[i]}});
    return {{"style", painter_.base_style()},
            {"side", painter_.side()},
            {"adapters", adapters},
            {"defaults", {{"steps", painter_.info().steps}, {"guidance", painter_.info().guidance}, {"count", 1}}},
            {"limits",
             {{"prompt", DrawLimits::prompt},
              {"steps", DrawLimits::steps},
              {"guidance", DrawLimits::guidance},
              {"strength", DrawLimits::strength},
              {"count", DrawLimits::count},
              {"seed", DrawLimits::seed}}}};
  }

  void draw(const DrawRequest& request, Response& res) {
    auto place = queue_.join(DrawLimits::drawings);
    if (!place) {
      res.set_header("Retry-After", "2");
      throw Refusal(503, str("busy: ", DrawLimits::drawings, " drawings are waiting already; try again soon"));
    }
    res.set_chunked_content_provider("application/x-ndjson", [this, request, place = std::move(place)](
                                                                 std::size_t, httplib::DataSink& sink) mutable {
      const auto say = [&](const ft::Json& line) {
        const auto text = as_line(line);
        if (!sink.is_writable() || !sink.write(text.data(), text.size())) throw ClientGone();
      };
      try {
        wait(*place, sink, say);
        draw(request, say);
      } catch (const ClientGone&) {
        place.reset();
        return false;
      } catch (const std::exception& e) {
        const auto text = as_line({{"error", e.what()}});
        sink.write(text.data(), text.size());
      }
      place.reset();  // the next one's turn, whatever becomes of this connection
      sink.done();
      return true;
    });
  }
  void check_stop() const {
    if (stopping_) throw ft::Interrupted("the server is ending");
  }

  template <class Say> void wait(const Queue::Place& place, httplib::DataSink& sink, const Say& say) const {
    std::size_t told = 0;
    while (const auto ahead = place.ahead(std::chrono::milliseconds(100))) {
      check_stop();
      if (!sink.is_writable()) throw ClientGone();
      if (ahead != told) say({{"waiting", told = ahead}});
    }
  }

  /// Only for whose turn it is.
  template <class Say> void draw(const DrawRequest& request, const Say& say) {
    const std::pair adapter(request.adapter, request.strength);
    if (adapter != loaded_) {
      loaded_.reset();  // should loading fail
      if (request.adapter) load_adapter(painter_, options_.adapters[*request.adapter], request.strength);
      else painter_.remove_adapter();
      loaded_ = adapter;
    }
    const auto prompt = in_style(request.prompt, painter_.words());
    auto options = default_drawing;
    for (std::int64_t i = 0; i < request.count; ++i)
      options.seeds.push_back(request.seed + static_cast<std::uint64_t>(i));
    const auto& seeds = options.seeds;
    options.steps = request.steps.value_or(painter_.info().steps);
    options.guidance = request.guidance.value_or(painter_.info().guidance);

    const auto as_json = [](const std::vector<Picture>& pictures) {
      ft::Json all = ft::Json::array();
      for (const Picture& picture : pictures) all.push_back(detail::base64(to_png(picture)));
      return all;
    };
    const auto started = std::chrono::steady_clock::now();
    const auto drawn =
        painter_.draw(std::vector<std::string>(seeds.size(), prompt), options, [&](const ft::PaintStep& s) {
          check_stop();
          say({{"step", s.step}, {"steps", s.steps}, {"first", s.first}, {"pictures", as_json(s.pictures)}});
        });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    ft::Json files = ft::Json::array();  // with what they were drawn from, as draw writes it
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const auto parameters =
          str("prompt: ", prompt, "; seed: ", seeds[i], "; steps: ", *options.steps, "; guidance: ", *options.guidance,
              "; adapter: ", request.adapter ? names_[*request.adapter] : "none", "; scale: ", request.strength);
      const PngText text{{"parameters", parameters}, {"Software", "ftlib image_style " FTLIB_VERSION}};
      files.push_back(detail::base64(to_png(drawn[i], text)));
    }
    say({{"prompt", prompt}, {"seeds", seeds}, {"seconds", seconds}, {"pictures", files}});
  }

  Painter& painter_;
  ServeOptions options_;
  std::vector<std::string> names_, styles_;  // of the adapters
  httplib::Server http_;
  int port_ = 0;
  Queue queue_;
  std::optional<std::pair<std::optional<std::size_t>, float>> loaded_;  // of whose turn it is
  std::atomic<bool> stopping_ = false, ended_ = false;
  std::thread thread_;
};

struct ServeArguments {
  std::string base, text_model = default_text_model;
  std::vector<std::string> adapters;
  ServeOptions options;
  int threads = 0;
};

/// Serves until SIGINT or SIGTERM.
inline void serve(const ServeArguments& a) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);  // before there are threads, which inherit it: all wait for sigtimedwait
  auto painter = open_painter(a.base, a.text_model, a.threads);
  ServeOptions options = a.options;
  options.adapters.assign(a.adapters.begin(), a.adapters.end());
  const Server server(painter, options);
  if (!detail::is_loopback(options.host))
    std::cout << "whoever reaches this machine's port " << server.port() << " can draw here\n";
  std::cout << "open " << server.url() << " in a browser; Ctrl-C ends" << std::endl;
  const timespec a_second{1, 0};
  while (server.running() && sigtimedwait(&ends, nullptr, &a_second) < 0) {
  }
  if (!server.running()) throw Error(server.url() + ": cannot be listened at any more");
}

inline void add_serve(CLI::App& app) {
  const auto a = std::make_shared<ServeArguments>();
  auto* c = app.add_subcommand("serve", "Open a page on this machine to type words and see pictures appear");
  c->add_option("--base", a->base, "a folder that pretrain made")->required()->type_name("BASE");
  c->add_option("--adapter", a->adapters, "a folder that train left, to be chosen on the page; may be repeated")
      ->type_name("RUN/adapter");
  c->add_option("--text-model", a->text_model, "the language model that reads the words; tools/fetch_model en")
      ->type_name("PATH")
      ->capture_default_str();
  c->add_option("--port", a->options.port, "0: any that is free")->check(CLI::Range(0, 65535))->capture_default_str();
  c->add_option("--host", a->options.host, "the address to listen at; 0.0.0.0: all, for whoever reaches this machine")
      ->capture_default_str();
  c->add_option("--threads", a->threads, "CPU threads; 0: one for each core")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer("Example:\n  image_style serve --base examples/image_style/base --adapter run/adapter");
  c->callback([a] { serve(*a); });
}

}  // namespace image_style
