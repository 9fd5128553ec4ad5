//! Where output goes and how it looks.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};
use serde::Serialize;

use crate::{
    args::{Format, When},
    failure::Failure,
};

/// What a piece of text says, for colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Attention,
    Name,
    Number,
    Faint,
    Strong,
}

/// Standard output.
#[derive(Debug)]
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    colour: bool,
}

impl Output {
    #[must_use]
    pub fn new(when: When, no_color: bool) -> Self {
        let colour = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => !no_color && io::stdout().is_terminal(),
        };
        Self { out: BufWriter::new(io::stdout().lock()), colour }
    }

    /// The text, coloured if colours are wanted.
    #[must_use]
    pub fn tone(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let style = Style::new();
        let style = match tone {
            Tone::Good => style.green(),
            Tone::Bad => style.red(),
            Tone::Attention => style.yellow(),
            Tone::Name => style.cyan(),
            Tone::Number => style.magenta(),
            Tone::Faint => style.dimmed(),
            Tone::Strong => style.bold(),
        };
        text.style(style).to_string()
    }

    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(|e| Failure::output(&e))
    }

    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|e| Failure::output(&e))
    }

    /// What was written so far is seen now.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| Failure::output(&e))
    }

    /// A document as JSON or YAML, or as whatever `table` prints.
    pub fn document<T: Serialize>(
        &mut self,
        format: Format,
        document: &T,
        table: impl FnOnce(&mut Self, &T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match format {
            Format::Table => table(self, document)?,
            Format::Json => {
                let text = serde_json::to_string_pretty(document).map_err(|e| Failure::Answer(e.to_string()))?;
                self.line(&text)?;
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(document).map_err(|e| Failure::Answer(e.to_string()))?;
                self.raw(text.as_bytes())?;
            }
        }
        self.flush()
    }

    /// Columns under a head, separated by spaces: cut, sorted and searched like any other text.
    pub fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
        table_lines(head, rows).iter().try_for_each(|line| self.line(line))
    }
}

/// The lines of such a table.
#[must_use]
pub fn table_lines(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(head.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}
