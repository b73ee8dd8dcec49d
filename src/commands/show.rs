//! How changes are shown: as text for a person, as JSON for a program. Pure.
//!
//! It guarantees that a row's value, which anybody may have written, cannot write to the terminal of whoever looks at it: what a
//! terminal would obey, or would not show, is spelled out, in text and in JSON.

mod change;
mod json;
mod line;
mod value;

pub use change::{Detail, change, image, key, statement};
pub use json::{json, json_of};
pub use line::Line;
pub use value::{value, visible};

/// Whether a terminal obeys a character or hides it: control characters of both sets, and those that turn or join the text around them.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            u32::from(character),
            0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe0fff
        )
}
