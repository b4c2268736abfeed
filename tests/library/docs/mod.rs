//! Pages of the documentation that state facts about the code.

mod format_page;
mod promises;
