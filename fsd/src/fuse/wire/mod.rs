//! The kernel's messages: requests taken apart, answers put together. Both transports use it.

pub(super) mod answer;
pub(super) mod dispatch;
pub(super) mod message;
#[cfg(test)]
mod tests;
