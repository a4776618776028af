//! Errors as the C interface reports them: a code and one line of text.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Code {
    Ok = 0,
    InvalidArgument = 1,
    DataLoss = 2,
    Unimplemented = 3,
    ResourceExhausted = 4,
}

#[derive(Debug)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault { code, message: message.into() }
    }
    pub fn invalid(message: impl Into<String>) -> Self {
        Fault::new(Code::InvalidArgument, message)
    }
    pub fn corrupt(message: impl Into<String>) -> Self {
        Fault::new(Code::DataLoss, message)
    }
}

/// One line about a caught panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown reason");
    text.replace('\n', " ")
}
