//! Columns without borders: text to the left, numbers to the right.
//!
//! On a terminal too narrow for them, cells wrap; elsewhere a row is always one line, for `grep` and `awk`.

use std::fmt;

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, presets};

use super::printable;

/// A heading and how its column is aligned.
pub(crate) struct Column(&'static str, CellAlignment);

/// A column of text.
pub(crate) fn left(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Left)
}

/// A column of numbers.
pub(crate) fn right(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Right)
}

/// A table that is printed with `{}`. Cells are made printable here.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn new<const N: usize>(columns: [Column; N]) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).enforce_styling();
        table.style_text_only();
        let terminal = super::stdout_is_terminal();
        table.set_content_arrangement(match terminal {
            true => ContentArrangement::Dynamic,
            false => ContentArrangement::Disabled,
        });
        table.set_header(columns.iter().map(|column| Cell::new(column.0).add_attribute(Attribute::Bold)));
        for (at, Column(_, alignment)) in columns.iter().enumerate() {
            let column = table.column_mut(at).expect("the header made this column");
            column.set_padding((0, 2)).set_cell_alignment(*alignment);
            // A number broken over two lines is read as another number.
            if terminal && *alignment == CellAlignment::Right {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        Table(table)
    }

    /// A row, of as many cells as there are columns.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.0.add_row(cells.into_iter().map(|cell| Cell::new(printable(cell.as_ref()))));
    }

    /// A row that matters less.
    pub(crate) fn dim_row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let dim = |cell: S| Cell::new(printable(cell.as_ref())).add_attribute(Attribute::Dim);
        self.0.add_row(cells.into_iter().map(dim));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.lines().collect();
        write!(f, "{}", lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_line() {
        let mut table = Table::new([left("run"), right("step"), right("size")]);
        table.row(["mnist", "5", "17.2 MB"]);
        table.row(["a\nb", "12000", "1 B"]);
        let plain = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(plain, "run     step     size\nmnist      5  17.2 MB\na\\nb   12000      1 B");
    }
}
