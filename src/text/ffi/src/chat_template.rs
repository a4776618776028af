//! Chat templates: Jinja as Hugging Face's transformers runs it (utils/chat_template_utils.py), on minijinja.
use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;

use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value as Json};

use crate::fault::{Code, Fault, Result};
use crate::python;

/// The largest real template has some 40 KB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Steps of the template machine; a message costs real templates some hundreds.
const FUEL_BASE: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Compiling and rendering recurse as deep as the source or the fuel allows ("- - - 1", lists in lists), so they have
/// a thread with a stack for that. Its pages are only taken when touched.
const STACK_BYTES: usize = 512 << 20;

pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
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
        let environment = on_large_stack(|| {
            let mut environment = environment();
            let source = neutralize_generation(source);
            environment.add_template_owned("chat template", source).map_err(|e| describe(&e, Code::DataLoss))?;
            Ok(environment)
        })?;
        Ok(ChatTemplate { environment, bos: bos.to_string(), eos: eos.to_string() })
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
        on_large_stack(|| self.render_here(variables, request.now, fuel))
    }

    fn render_here(&self, variables: Map<String, Json>, now: Option<i64>, fuel: u64) -> Result<String> {
        NOW.set(now);
        PRINTED.set(0);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template("chat template").map_err(|e| describe(&e, Code::DataLoss))?;
        let mut out = LimitedOutput(Vec::new());
        template
            .render_captured_to(Value::from_serialize(variables), &mut out)
            .map_err(|e| describe(&e, Code::InvalidArgument))?;
        String::from_utf8(out.0).map_err(|e| Fault::invalid(format!("chat template: {e}")))
    }
}

/// Runs `body` on a thread of its own and waits: the fuel, and the limit on the source, bound how long.
fn on_large_stack<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
        let handle = thread
            .spawn_scoped(scope, body)
            .map_err(|e| Fault::new(Code::ResourceExhausted, format!("chat template: no thread to run on: {e}")))?;
        handle.join().unwrap_or_else(|_| Err(Fault::invalid("chat template: the engine failed")))
    })
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
    env.add_function("raise_exception", |message: &Value| -> std::result::Result<Value, Error> {
        let message = python::str_of(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    env.add_function("strftime_now", strftime_now);
    // Python's abstract types are wider than minijinja's: text and mappings are sequences, a bool is a number.
    env.add_test("sequence", |v: &Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    env.add_test("iterable", |v: &Value| v.is_undefined() || v.try_iter().is_ok());
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
