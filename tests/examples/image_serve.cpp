// tests/examples/image_serve.cpp: `image_style serve` through HTTP: the page, drawings as they come, the queue, every
// request that is refused; the program itself: where it listens, how it ends. serve_browser.py looks at the page.
#include "../../examples/image_style/serve.hpp"

#include <doctest/doctest.h>
#include <ftlib/models/mmjit_config.hpp>

#include "../scratch.hpp"

#include <netinet/in.h>  // sockaddr_in
#include <sys/socket.h>  // socket
#include <sys/wait.h>    // waitpid
#include <cstdlib>       // std::getenv
#include <fstream>       // std::ifstream
#include <sstream>       // std::istringstream

using namespace image_style;
using namespace std::chrono_literals;
using ft::Json;
using ft::test::Scratch;
namespace fs = std::filesystem;

namespace {
const fs::path text_model = fs::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf";

/// Random weights, so that what is drawn depends on the words, the seed and the adapter; it draws in milliseconds.
void write_base(const fs::path& folder) {
  const ft::MMJiTConfig config{.image_size = 32,
                               .patch_size = 8,
                               .pca_channels = 16,
                               .hidden_size = 32,
                               .txt_input_size = 64,
                               .txt_preamble_depth = 1,
                               .depth_double = 1,
                               .num_heads = 2,
                               .head_dim = 16,
                               .prompt_length = 1,
                               .noise_scale = 1,
                               .conditioning = ft::Conditioning::adaln_zero};
  auto model = Model::initial(config.to_json(), 1, {.threads = 1});
  ft::Random random(7);
  const auto stir = [&random, &model](double by) {
    for (auto* w : model.parameters())
      for (std::int64_t i = 0; w->trainable && i < w->value.shape().count(); ++i)
        w->value.data()[i] += static_cast<float>(by * random.normal());
  };
  stir(0.2);
  fs::create_directories(folder);
  const ft::TextEncoding encoding{.layers = {1}, .before = "Emoji:", .mean = {}, .scale = {}, .limit = 6};
  model.save(folder / "model.safetensors", ft::DType::f16,
             {{"text_encoding", encoding.to_json().dump()}, {"style", "noto style"}});
  for (const std::string style : {"painterly", "outline"}) {
    model.attach({.rank = 2, .alpha = 2});
    stir(0.2);
    const auto adapter = folder / style / "adapter";
    fs::create_directories(adapter);
    model.save_adapter(adapter);
    ft::write_atomically(adapter / "style.json", Json{{"style", style + " style"}}.dump());
  }
}

struct Served {
  Scratch dir;
  std::optional<Painter> painter;
  std::optional<Server> server;
  Served() {
    write_base(dir.path());
    painter.emplace(open_painter(dir.path(), text_model, 1));
    server.emplace(*painter,
                   ServeOptions{.adapters = {dir / "painterly/adapter", dir / "outline/adapter/"}, .port = 0});
  }
  httplib::Client client() const {
    httplib::Client c("127.0.0.1", server->port());
    c.set_read_timeout(60);
    return c;
  }

  struct Answer {
    int status = 0;  // 0: none came, or it was left
    std::vector<Json> lines;
    std::string error() const { return lines.empty() ? "" : lines.back().value("error", ""); }
  };
  /// Posts `body`; `on_line` sees each line as it comes, and may leave with false.
  Answer post(const std::string& body, const std::function<bool(const Json&)>& on_line = {},
              httplib::Headers headers = {}) const {
    Answer answer;
    std::string rest;
    httplib::Request request;
    request.method = "POST";
    request.path = "/draw";
    request.body = body;
    request.headers = std::move(headers);
    if (!request.has_header("Content-Type")) request.set_header("Content-Type", "application/json");
    request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
      rest.append(data, size);
      for (std::size_t end; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1)) {
        answer.lines.push_back(Json::parse(rest.substr(0, end)));
        if (on_line && !on_line(answer.lines.back())) return false;
      }
      return true;
    };
    auto c = client();
    if (const auto result = c.send(request)) answer.status = result->status;
    return answer;
  }
  Answer draw(const Json& request, const std::function<bool(const Json&)>& on_line = {}) const {
    return post(request.dump(), on_line);
  }
};

/// What comes back for these very bytes.
std::string raw(int port, const std::string& bytes) {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(s, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  for (std::size_t sent = 0; sent < bytes.size();) {
    const auto n = ::send(s, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) break;  // it has heard enough
    sent += static_cast<std::size_t>(n);
  }
  std::string answer;
  std::array<char, 4096> buffer{};
  for (ssize_t n; (n = ::recv(s, buffer.data(), buffer.size(), 0)) > 0;)
    answer.append(buffer.data(), static_cast<std::size_t>(n));
  ::close(s);
  return answer;
}
int status_of(const std::string& answer) {  // "HTTP/1.1 404 Not Found"
  return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}
bool has_error(const std::string& answer) {
  const auto body = answer.find("\r\n\r\n");
  if (body == std::string::npos) return false;
  const auto json = Json::parse(answer.substr(body + 4), nullptr, false);
  return json.is_object() && json.contains("error") && !json["error"].get<std::string>().empty();
}

/// The local addresses at which somebody listens on `port`, as the kernel writes them: "0100007F".
std::vector<std::string> listened_at(int port) {
  std::vector<std::string> found;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    for (std::string line; std::getline(in, line);) {
      std::string number, local, remote, state;
      std::istringstream words(line);
      words >> number >> local >> remote >> state;
      if (state != "0A") continue;  // LISTEN
      const auto colon = local.find(':');
      if (std::stoi(local.substr(colon + 1), nullptr, 16) == port) found.push_back(local.substr(0, colon));
    }
  }
  return found;
}

/// `image_style serve` as a program of its own.
class Child {
 public:
  explicit Child(std::vector<std::string> arguments) {
    int out[2];
    REQUIRE(::pipe(out) == 0);
    arguments.insert(arguments.begin(), {FTLIB_IMAGE_STYLE, "serve"});
    std::vector<char*> argv;
    for (auto& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(out[1], 1);
      ::dup2(out[1], 2);
      ::close(out[0]);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out[1]);
    out_ = ::fdopen(out[0], "r");
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    std::fclose(out_);
  }
  std::string line() {
    std::array<char, 1024> buffer{};
    return std::fgets(buffer.data(), buffer.size(), out_) ? buffer.data() : "";
  }
  void kill(int signal) const { ::kill(pid_, signal); }
  /// The exit status, -1 where a signal ended it.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = 0;
  std::FILE* out_ = nullptr;
};

std::string refusal(Painter& painter, const ServeOptions& options) {
  try {
    const Server server(painter, options);
  } catch (const Error& e) {
    return e.message();
  }
  return "";
}
}  // namespace

TEST_CASE("examples/image_serve: the page and its settings") {
  const Served s;
  auto client = s.client();
  const auto shown = client.Get("/");
  REQUIRE(shown);
  CHECK(shown->status == 200);
  CHECK(shown->body == page);
  CHECK(shown->get_header_value("Content-Type") == "text/html; charset=utf-8");
  CHECK(shown->get_header_value("Content-Security-Policy").find("default-src 'none'") == 0);
  CHECK(shown->body.find("http://") == shown->body.find("http://www.w3.org/2000/svg"));  // nothing from elsewhere,
  CHECK(shown->body.find("https://") == std::string::npos);                              // a namespace apart

  const auto settings = Json::parse(client.Get("/settings")->body);
  CHECK(settings["style"] == "noto style");
  CHECK(settings["side"] == 32);
  CHECK(settings["adapters"] == Json::parse(R"([{"name": "painterly", "style": "painterly style"},
                                                {"name": "outline", "style": "outline style"}])"));
  CHECK(settings["defaults"]["steps"] == 12);
  CHECK(settings["limits"]["prompt"] == 500);
  CHECK(client.Head("/")->status == 200);
}

TEST_CASE("examples/image_serve: pictures come as they are drawn, the same that draw makes") {
  const Served s;
  CHECK(s.server->adapters() == std::vector<std::string>{"painterly", "outline"});
  const auto answer = s.draw({{"prompt", "red apple"},
                              {"adapter", "painterly"},
                              {"strength", 0.5},
                              {"seed", 7},
                              {"steps", 5},
                              {"guidance", 2},
                              {"count", 3}});
  CHECK(answer.status == 200);
  REQUIRE(answer.lines.size() == 6);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(answer.lines[i]["step"] == i + 1);
    CHECK(answer.lines[i]["steps"] == 5);
    CHECK(answer.lines[i]["pictures"].size() == 3);
  }
  const Json& last = answer.lines.back();
  CHECK(last["prompt"] == "red apple, painterly style");
  CHECK(last["seeds"] == Json({7, 8, 9}));
  CHECK(last["seconds"].get<double>() > 0);
  CHECK(answer.lines[0]["pictures"] != last["pictures"]);

  auto painter = open_painter(s.dir.path(), text_model, 1);
  painter.load_adapter(s.dir / "painterly/adapter", 0.5f);
  auto options = default_drawing;
  options.seeds = {7, 8, 9};
  options.steps = 5;
  options.guidance = 2;
  const auto drawn = painter.draw(std::vector<std::string>(3, "red apple, painterly style"), options);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(answer.lines[4]["pictures"][i] == image_style::detail::base64(to_png(drawn[i])));
    const auto parameters = str("prompt: red apple, painterly style; seed: ", 7 + i,
                                "; steps: 5; guidance: 2; adapter: painterly; scale: 0.5");
    const PngText text{{"parameters", parameters}, {"Software", "ftlib image_style " FTLIB_VERSION}};
    CHECK(last["pictures"][i] == image_style::detail::base64(to_png(drawn[i], text)));
  }

  // Each setting makes another picture, and the one before comes again.
  const Json plain{{"prompt", "red apple"}, {"seed", 7}, {"steps", 5}};
  const auto picture = [&](const Json& change) {
    Json request = plain;
    request.update(change);
    const auto a = s.draw(request);
    CHECK(a.error() == "");
    return a.lines.back()["pictures"][0].get<std::string>();
  };
  std::set<std::string> different;
  const std::vector<Json> changes{Json::object(),
                                  {{"prompt", "사과 🍎"}},
                                  {{"seed", 8}},
                                  {{"steps", 3}},
                                  {{"guidance", 4.5}},
                                  {{"adapter", "painterly"}},
                                  {{"adapter", "painterly"}, {"strength", 1.5}},
                                  {{"adapter", "outline"}}};
  for (const Json& change : changes) different.insert(picture(change));
  CHECK(different.size() == changes.size());
  CHECK(different.contains(picture({{"adapter", nullptr}})));
  const auto any = s.draw({{"prompt", "red apple"}}), other = s.draw({{"prompt", "red apple"}});
  CHECK(any.lines.back()["seeds"] != other.lines.back()["seeds"]);  // without a seed, a new one
  CHECK(any.lines.size() == 12 + 1);
  CHECK(s.draw({{"prompt", std::string(500, 'x')}, {"steps", 1}, {"seed", DrawLimits::seed}}).status == 200);
}

TEST_CASE("examples/image_serve: base64") {
  CHECK(image_style::detail::base64("") == "");
  CHECK(image_style::detail::base64("f") == "Zg==");
  CHECK(image_style::detail::base64("fo") == "Zm8=");
  CHECK(image_style::detail::base64("foo") == "Zm9v");
  CHECK(image_style::detail::base64("\xff\xfe\xfd!") == "//79IQ==");
}

TEST_CASE("examples/image_serve: what is asked wrongly is refused, with a reason") {
  const Served s;
  const auto refused = [&](const std::string& body, const std::string& reason, int status = 400) {
    CAPTURE(body.substr(0, 100));
    const auto answer = s.post(body);
    CHECK(answer.status == status);
    CHECK(answer.lines.size() == 1);
    CHECK_MESSAGE(answer.error().find(reason) != std::string::npos, answer.error());
  };
  const auto field = [&](const char* key, const Json& value, const std::string& reason) {
    Json request{{"prompt", "apple"}};
    request[key] = value;
    refused(request.dump(), reason);
  };
  refused("", "request: line 1");
  refused("{", "request: line 1");
  refused("apple", "request: line 1");
  refused("[]", "an object");
  refused("{}", "'prompt' is missing");
  refused(std::string(4000, '['), "request");
  refused("{\"prompt\": \"\xff\xfe\"}", "request: line 1");
  refused(R"({"prompt": "\ud800"})", "request: line 1");
  refused(R"({"prompt": "a", "prompt": "b"})", "twice");
  refused(R"({"prompt": "a", "steps": 1e999})", "request");
  field("prompt", "", "prompt: is empty");
  field("prompt", "   ", "prompt: is empty");
  field("prompt", "a\nb", "control");
  field("prompt", std::string(1, '\0'), "control");
  field("prompt", std::string(501, 'x'), "501 bytes");
  field("prompt", 3, "'prompt'");
  field("prompt", {"a"}, "'prompt'");
  field("prompt", nullptr, "'prompt'");
  field("adapter", "../painterly", "none called");
  field("adapter", "painterl", "none called");
  field("adapter", 0, "'adapter'");
  for (const Json& wrong : {Json("3"), Json(true), Json(1.5), Json::array(), Json::object()}) {
    field("count", wrong, "'count'");
    field("steps", wrong, "'steps'");
    field("seed", wrong, "'seed'");
  }
  for (const Json& wrong : {Json("3"), Json(true), Json::array()}) {
    field("strength", wrong, "'strength'");
    field("guidance", wrong, "'guidance'");
  }
  field("count", 0, "count: 0 is not in 1 to 8");
  field("count", 9, "count: 9");
  field("count", -1, "count: -1");
  field("count", 18446744073709551615u, "'count'");
  field("steps", 0, "steps: 0");
  field("steps", 101, "steps: 101");
  field("strength", 1.51, "strength: 1.51");
  field("strength", -0.1, "strength: -0.1");
  field("guidance", 20.5, "guidance: 20.5");
  field("seed", DrawLimits::seed + 1, "seed: 9007199254740992");
  field("seed", -1, "'seed'");
  field("size", 4096, "nothing is called 'size'");
  refused(Json{{"prompt", std::string(5000, 'x')}}.dump(), "4096 bytes", 413);
  refused(std::string(5'000'000, ' '), "4096 bytes", 413);

  for (const char* type : {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"}) {
    CAPTURE(type);
    const auto answer = s.post(R"({"prompt": "apple"})", {}, {{"Content-Type", type}});
    CHECK((answer.status == 415 || answer.status == 400));
    CHECK(answer.error() != "");
  }
  CHECK(s.draw({{"prompt", "apple"}, {"steps", 1}}).status == 200);  // none of it did harm
}

TEST_CASE("examples/image_serve: other paths, methods and bytes") {
  const Served s;
  const auto refused = [&](const std::string& bytes, int status) {
    CAPTURE(bytes.substr(0, 100));
    const auto answer = raw(s.server->port(), bytes);
    CHECK_MESSAGE(status_of(answer) == status, answer);
    CHECK_MESSAGE(has_error(answer), answer);
  };
  const std::string host = " HTTP/1.1\r\nHost: localhost\r\n";
  for (const char* path :
       {"/index.html", "//", "/../etc/passwd", "/%2e%2e/etc/passwd", "/draw/", "/favicon.ico", "/%00"})
    refused(str("GET ", path, host, "\r\n"), 404);
  refused("GET /draw" + host + "\r\n", 405);
  refused("OPTIONS /draw" + host + "\r\n", 405);
  for (const char* method : {"PUT", "PATCH", "DELETE"})
    refused(str(method, " /draw", host, "Content-Length: 2\r\n\r\n{}"), 405);
  refused("POST /" + host + "Content-Length: 2\r\n\r\n{}", 405);
  refused("POST /settings" + host + "Content-Length: 2\r\n\r\n{}", 405);
  refused("BREW /" + host + "\r\n", 400);
  refused("GET /\r\n\r\n", 400);
  refused("\x16\x03\x01\x02\r\n\r\n", 400);  // TLS
  refused("GET /" + std::string(9000, 'a') + host + "\r\n", 414);
  refused("POST /draw" + host + "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n", 413);
  // A body in pieces announces no length.
  std::string pieces;
  for (int i = 0; i < 100; ++i) pieces += "400\r\n" + std::string(1024, ' ') + "\r\n";
  refused("POST /draw" + host + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces +
              "0\r\n\r\n",
          413);
  CHECK(s.draw({{"prompt", "apple"}, {"steps", 1}}).status == 200);
}

TEST_CASE("examples/image_serve: pages from elsewhere neither read nor draw") {
  const Served s;
  const auto asked = [&](const std::string& headers) {
    const std::string body = R"({"prompt": "apple", "steps": 1})";
    const auto post = raw(s.server->port(), str("POST /draw HTTP/1.1\r\nContent-Type: application/json\r\n", headers,
                                                "Content-Length: ", body.size(), "\r\n\r\n", body));
    const auto get = raw(s.server->port(), str("GET /settings HTTP/1.1\r\n", headers, "\r\n"));
    CHECK(status_of(get) == status_of(post));
    CHECK(has_error(get) == (status_of(get) != 200));
    return status_of(post);
  };
  for (const char* host : {"localhost", "LOCALHOST:1234", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"})
    CHECK_MESSAGE(asked(str("Host: ", host, "\r\n")) == 200, host);
  for (const char* host : {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.evil", "10.0.0.1",
                           "0.0.0.0", "", "[::2]", "[", "evil.example:localhost", "localhost@evil.example"})
    CHECK_MESSAGE(asked(str("Host: ", host, "\r\n")) == 403, host);
  CHECK(asked("") == 403);
  CHECK(asked("Host: localhost\r\nHost: evil.example\r\n") == 403);
  CHECK(asked("Host: localhost:8080\r\nOrigin: http://localhost:8080\r\n") == 200);
  for (const char* origin : {"http://evil.example", "null", "http://localhost:8081", "https://localhost:8080",
                             "http://127.0.0.1:8080", "http://localhost:8080.evil.example"})
    CHECK_MESSAGE(asked(str("Host: localhost:8080\r\nOrigin: ", origin, "\r\n")) == 403, origin);

  using image_style::detail::is_called;  // listening at other addresses
  CHECK(is_called("192.168.1.5", "0.0.0.0"));
  CHECK(is_called("fe80::1", "::"));
  CHECK(is_called("studio", "studio"));
  CHECK(is_called("localhost", "0.0.0.0"));
  CHECK(!is_called("evil.example", "0.0.0.0"));
  CHECK(!is_called("", "0.0.0.0"));
  CHECK(!is_called("192.168.1.5", "localhost"));
}

TEST_CASE("examples/image_serve: one draws, some wait in their order, more are sent away; who leaves frees the place") {
  Served s;
  auto held = s.server->queue().join(1);  // as if somebody were drawing
  REQUIRE(held);
  std::mutex mutex;
  std::vector<std::size_t> order;
  std::atomic<int> waiting = 0;
  std::vector<std::thread> clients;
  std::vector<Served::Answer> answers(4);
  for (std::size_t i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {  // 100 steps, so that a client's thread is awake before the next drawing is done
      answers[i] = s.draw({{"prompt", "apple"}, {"steps", 100}, {"count", 2}}, [&](const Json& line) {
        if (line.contains("waiting") && line["waiting"] == i + 1) ++waiting;
        if (line.contains("seeds")) {
          const std::lock_guard lock(mutex);
          order.push_back(i);
        }
        return true;
      });
    });
    while (waiting < static_cast<int>(i) + 1) std::this_thread::sleep_for(1ms);
  }
  const auto sent_away = s.draw({{"prompt", "apple"}});
  CHECK(sent_away.status == 503);
  CHECK(sent_away.error().find("busy") == 0);
  CHECK(s.client().Get("/")->status == 200);  // the page is there all the same
  held.reset();
  for (auto& client : clients) client.join();
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3});
  for (const auto& answer : answers) CHECK(answer.lines.back().contains("seeds"));

  held = s.server->queue().join(1);
  REQUIRE(held);
  CHECK(s.draw({{"prompt", "apple"}}, [](const Json&) { return false; }).status == 0);  // leaves while it waits
  held.reset();
  while (!s.server->queue().join(1)) std::this_thread::sleep_for(1ms);  // until nobody is ahead
  const auto started = std::chrono::steady_clock::now();
  CHECK(s.draw({{"prompt", "apple"}, {"steps", 100}, {"count", 8}}).lines.size() == 101);
  const auto whole = std::chrono::steady_clock::now() - started;
  std::chrono::steady_clock::time_point left;
  CHECK(s.draw({{"prompt", "apple"}, {"steps", 100}, {"count", 8}}, [&](const Json&) {
           left = std::chrono::steady_clock::now();
           return false;  // leaves after the first step
         }).status == 0);
  while (!s.server->queue().join(1)) std::this_thread::sleep_for(1ms);
  CHECK(std::chrono::steady_clock::now() - left < whole / 2);
}

TEST_CASE("examples/image_serve: ends in the midst of a drawing") {
  Served s;
  Served::Answer answer;
  std::atomic<bool> begun = false;
  std::thread client([&] {
    answer = s.draw({{"prompt", "apple"}, {"steps", 100}, {"count", 8}}, [&](const Json&) { return begun = true; });
  });
  while (!begun) std::this_thread::sleep_for(1ms);
  s.server.reset();
  client.join();
  CHECK(answer.error() == "the server is ending");
}

TEST_CASE("examples/image_serve: the same name twice; what cannot be served") {
  Served s;
  const auto adapter = s.dir / "outline/adapter";
  CHECK(Server(*s.painter, {.adapters = {adapter, s.dir / "outline/../outline/adapter"}, .port = 0}).adapters() ==
        std::vector<std::string>{"outline", "outline 2"});
  CHECK(refusal(*s.painter, {.port = s.server->port()}).find(str("127.0.0.1:", s.server->port(), ": cannot be")) == 0);
  CHECK(refusal(*s.painter, {.host = "192.0.2.1", .port = 0}).find("cannot be listened at") != std::string::npos);
  CHECK(refusal(*s.painter, {.adapters = {s.dir / "nothing"}, .port = 0}) != "");
}

TEST_CASE("examples/image_serve: the program listens on loopback alone, says where, and ends when told") {
  Scratch dir;
  write_base(dir.path());
  const std::vector<std::string> arguments{"--base",       dir.path().string(),
                                           "--text-model", text_model.string(),
                                           "--threads",    "1",
                                           "--adapter",    (dir / "painterly/adapter").string(),
                                           "--port",       "0"};
  for (const int signal : {SIGTERM, SIGINT}) {
    Child child(arguments);
    const auto line = child.line();
    const auto at = line.find("http://127.0.0.1:");
    REQUIRE_MESSAGE(at != std::string::npos, line);
    const int port = std::atoi(line.c_str() + at + 17);
    CHECK(listened_at(port) == std::vector<std::string>{"0100007F"});
    CHECK(httplib::Client("127.0.0.1", port).Get("/")->status == 200);
    child.kill(signal);
    CHECK(child.wait() == 0);
    CHECK(listened_at(port).empty());
  }
  auto wrong = arguments;
  wrong[7] = (dir / "nothing").string();
  Child child(wrong);
  CHECK(child.line().find("image_style: ") == 0);
  CHECK(child.wait() == 2);
}

// For serve_browser.py, which serves it with the program itself.
TEST_CASE("examples/image_serve: a base to look at" * doctest::skip(!std::getenv("FTLIB_SERVE_BASE"))) {
  write_base(std::getenv("FTLIB_SERVE_BASE"));
}
