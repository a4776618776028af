//! Chat templates: Jinja as Hugging Face's transformers runs it (utils/chat_template_utils.py), on minijinja.
use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value as Json};

use crate::fault::{Code, Fault, Result};
use crate::python;
use crate::sandbox::{self, Limits, Stop};

/// The largest real template has some 40 KB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Steps of the template machine; a message costs real templates some hundreds.
const FUEL_BASE: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Compiling and rendering recurse as deep as the source or the fuel allows ("- - - 1", lists in lists); pages of the
/// stack are only taken when touched.
const STACK_BYTES: usize = 512 << 20;
/// Parsed messages and copies that templates make of them take a few times their JSON.
const MEMORY_BASE: usize = 256 << 20;
const MEMORY_PER_INPUT_BYTE: usize = 32;
/// Real templates take milliseconds.
const MAX_TIME: Duration = Duration::from_secs(10);

pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    /// Set once a render was stopped: its thread may still hold what the environment shares.
    stopped: AtomicBool,
}

pub struct Request<'a> {
    /// JSON list of objects.
    pub messages: &'a str,
    /// JSON list, or empty for none.
    pub tools: &'a str,
    /// JSON object of more variables, or empty.
    pub extra: &'a str,
    pub add_generation_prompt: bool,
    /// What strftime_now sees, in seconds since 1970; None for the clock.
    pub now: Option<i64>,
}

thread_local! {
    /// strftime_now's time and the bytes printed so far, of the render that owns this thread.
    static NOW: Cell<Option<i64>> = const { Cell::new(None) };
    static PRINTED: Cell<usize> = const { Cell::new(0) };
}

/// The message of raise_exception, kept apart from the engine's own errors.
#[derive(Debug)]
struct Raised(String);
impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl StdError for Raised {}

impl ChatTemplate {
    pub fn compile(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Fault::corrupt(format!("chat template: {} bytes, more than {MAX_SOURCE_BYTES}", source.len())));
        }
        let source = neutralize_generation(source);
        let compile = move || {
            let mut environment = environment();
            environment.add_template_owned("chat template", source).map_err(|e| describe(&e, Code::DataLoss))?;
            Ok(environment)
        };
        let environment = sandbox::run(limits(0), compile).unwrap_or_else(|stop| Err(stopped(stop)))?;
        Ok(ChatTemplate { environment, bos: bos.to_string(), eos: eos.to_string(), stopped: AtomicBool::new(false) })
    }

    pub fn render(&self, request: &Request) -> Result<String> {
        let messages = parse("messages", request.messages)?;
        let Json::Array(list) = &messages else {
            return Err(Fault::invalid("messages: expected a JSON list"));
        };
        if let Some(index) = list.iter().position(|message| !message.is_object()) {
            return Err(Fault::invalid(format!("messages[{index}]: expected a JSON object")));
        }
        let fuel = FUEL_BASE + FUEL_PER_MESSAGE * list.len() as u64;
        let mut variables = match request.extra {
            "" => Map::new(),
            text => match parse("extra", text)? {
                Json::Object(map) => map,
                _ => return Err(Fault::invalid("extra: expected a JSON object")),
            },
        };
        let tools = if request.tools.is_empty() { Json::Null } else { parse("tools", request.tools)? };
        if !(tools.is_null() || tools.is_array()) {
            return Err(Fault::invalid("tools: expected a JSON list"));
        }
        for (name, value) in [
            ("messages", messages),
            ("tools", tools),
            ("documents", Json::Null),
            ("add_generation_prompt", Json::Bool(request.add_generation_prompt)),
            ("bos_token", Json::String(self.bos.clone())),
            ("eos_token", Json::String(self.eos.clone())),
        ] {
            // Like keyword arguments: only documents may come from the caller's own variables.
            if name != "documents" || !variables.contains_key(name) {
                variables.insert(name.to_string(), value);
            }
        }
        if self.stopped.load(Ordering::Acquire) {
            return Err(Fault::new(Code::ResourceExhausted, "chat template: an earlier render went past its limits"));
        }
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let now = request.now;
        let input_bytes = request.messages.len() + request.tools.len() + request.extra.len();
        sandbox::run(limits(input_bytes), move || render(environment, variables, now)).unwrap_or_else(|stop| {
            if matches!(stop, Stop::Memory | Stop::Time) {
                self.stopped.store(true, Ordering::Release);
            }
            Err(stopped(stop))
        })
    }
}

fn limits(input_bytes: usize) -> Limits {
    let memory_bytes = MEMORY_BASE.saturating_add(input_bytes.saturating_mul(MEMORY_PER_INPUT_BYTE));
    Limits { stack_bytes: STACK_BYTES, memory_bytes, time: MAX_TIME }
}

fn stopped(stop: Stop) -> Fault {
    let (code, text) = match stop {
        Stop::Memory => (Code::ResourceExhausted, "needs too much memory".to_string()),
        Stop::Time => (Code::ResourceExhausted, format!("takes longer than {} s", MAX_TIME.as_secs())),
        Stop::NoThread(reason) => (Code::ResourceExhausted, format!("no thread to run on: {reason}")),
        Stop::Panic(reason) => (Code::InvalidArgument, format!("the engine panicked: {reason}")),
    };
    Fault::new(code, format!("chat template: {text}"))
}

fn render(environment: Environment<'static>, variables: Map<String, Json>, now: Option<i64>) -> Result<String> {
    NOW.set(now);
    PRINTED.set(0);
    let template = environment.get_template("chat template").map_err(|e| describe(&e, Code::DataLoss))?;
    let mut out = LimitedOutput(Vec::new());
    template
        .render_captured_to(Value::from_serialize(variables), &mut out)
        .map_err(|e| describe(&e, Code::InvalidArgument))?;
    String::from_utf8(out.0).map_err(|e| Fault::invalid(format!("chat template: {e}")))
}

fn parse(what: &str, text: &str) -> Result<Json> {
    serde_json::from_str(text).map_err(|e| Fault::invalid(format!("{what}: not JSON: {e}")))
}

struct LimitedOutput(Vec<u8>);
impl std::io::Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(std::io::Error::other(format!("more than {MAX_OUTPUT_BYTES} bytes of text")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One line: what the template raised, or what went wrong and at which line, with its causes.
fn describe(error: &Error, code: Code) -> Fault {
    let mut text = error.to_string();
    let mut code = code;
    if matches!(error.kind(), ErrorKind::OutOfFuel | ErrorKind::WriteFailure) {
        code = Code::ResourceExhausted;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(raised) = inner.downcast_ref::<Raised>() {
            return Fault::invalid(format!("chat template: {}", raised.0.replace('\n', " ")));
        }
        if let Some(inner) = inner.downcast_ref::<Error>() {
            if matches!(inner.kind(), ErrorKind::OutOfFuel | ErrorKind::WriteFailure) {
                code = Code::ResourceExhausted;
            }
        }
        text += &format!(": {inner}");
        cause = inner.source();
    }
    Fault::new(code, format!("chat template: {}", text.replace('\n', " ")))
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_formatter(print);
    env.set_unknown_method_callback(|state, value, method, args| {
        let own = value.as_str().and_then(|text| python::string_method(text, method, args));
        own.unwrap_or_else(|| pycompat::unknown_method_callback(state, value, method, args))
    });
    env.add_filter("tojson", |value: &Value, args: Rest<Value>| -> std::result::Result<String, Error> {
        let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
        python::to_json(value, positional, &kwargs)
    });
    env.add_filter("string", |value: &Value| python::str_of(value));
    env.add_filter("trim", |value: &Value| Ok::<_, Error>(python::str_of(value)?.trim().to_string()));
    env.add_function("raise_exception", |message: &Value| -> std::result::Result<Value, Error> {
        let message = python::str_of(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    env.add_function("strftime_now", strftime_now);
    // Python's abstract types are wider than minijinja's: text and mappings are sequences, a bool is a number.
    env.add_test("sequence", |v: &Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    env.add_test("iterable", |v: &Value| v.is_undefined() || (!v.is_none() && v.try_iter().is_ok()));
    env.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    env
}

/// Prints `{{ value }}` as Python's str() and counts it, captured text included.
fn print(out: &mut Output, _: &State, value: &Value) -> std::result::Result<(), Error> {
    let text = python::str_of(value)?;
    let printed = PRINTED.get() + text.len();
    if printed > MAX_OUTPUT_BYTES {
        return Err(Error::new(ErrorKind::WriteFailure, format!("more than {MAX_OUTPUT_BYTES} bytes of text")));
    }
    PRINTED.set(printed);
    out.write_str(&text)?;
    Ok(())
}

/// datetime.now().strftime(format), in local time.
fn strftime_now(format: &str) -> std::result::Result<String, Error> {
    let fault = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
    if format.is_empty() {
        return Ok(String::new());
    }
    let now = NOW.get().unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |duration| duration.as_secs() as i64)
    });
    let format = std::ffi::CString::new(format).map_err(|_| fault("zero byte in the format"))?;
    let mut text = [0u8; 1024];
    let now = now as libc::time_t;
    // SAFETY: localtime_r fills the zeroed tm or returns null; strftime writes at most the buffer's size and returns
    // how many bytes it wrote before the terminator, 0 if they did not fit.
    let written = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() {
            return Err(fault("time out of range"));
        }
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &local)
    };
    match std::str::from_utf8(&text[..written]) {
        Ok(text) if written > 0 => Ok(text.to_string()),
        _ => Err(fault("result is empty or longer than 1 KB")),
    }
}

/// transformers marks the assistant's text with `{% generation %}` blocks, for training; they print their content. The
/// engine knows no such tag, but `{% with %}` also prints its content and opens a scope.
fn neutralize_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inside = &tag[..end];
        let keyword = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match keyword {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&inside.replacen(keyword, replacement, 1));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}
