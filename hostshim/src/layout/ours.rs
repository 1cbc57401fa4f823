//! Layouts that [`layout!`](spinwire_layouts::layout) has defined, brought into the form in which all sources are compared.

use spinwire_layouts::describe::{Endian, FieldLayout, Room, StructLayout};
use spinwire_layouts::word;

use super::model::{Catalog, Dialect, Kind, Member, Order, Shape, Site, Type};

/// All layouts and numbers of the rooms. Each type is called by its room and its name: `shm::LaneCell`.
#[must_use]
pub fn catalog(rooms: &[Room]) -> Catalog {
    let mut catalog = Catalog::new("the layouts of this build", Dialect::Ours);
    for room in rooms {
        for layout in room.layouts {
            catalog.add(Type { name: qualified(room, layout), ..of(layout) });
        }
        for number in room.numbers.iter().copied().flatten() {
            catalog.numbers.insert(number.name.to_owned(), number.value);
        }
    }
    catalog
}

/// What the layout of a room is called among those of all rooms.
#[must_use]
pub fn qualified(room: &Room, layout: &StructLayout) -> String {
    format!("{}::{}", room.name, layout.name)
}

/// One layout.
#[must_use]
pub fn of(layout: &StructLayout) -> Type {
    let site = (!layout.file.is_empty())
        .then(|| Site { file: layout.file.to_owned(), line: u64::from(layout.line) });
    Type {
        name: layout.name.to_owned(),
        kind: Kind::Struct,
        size: word::from_usize(layout.size),
        align: Some(word::from_usize(layout.align)),
        members: layout.fields.iter().map(|field| member(field, site.as_ref())).collect(),
        site,
        is_tagged: false,
    }
}

fn member(field: &FieldLayout, site: Option<&Site>) -> Member {
    let shown = field.type_name().to_string();
    let order = match field.endian {
        Endian::Native => Order::Native,
        Endian::Little => Order::Little,
        Endian::Big => Order::Big,
        Endian::Bytes | Endian::Nested => Order::None,
    };
    Member {
        name: field.name.to_owned(),
        offset: word::from_usize(field.offset),
        bits: None,
        shape: Shape {
            core: shown.clone(),
            shown,
            size: Some(word::from_usize(field.size)),
            order,
            is_shared: false,
        },
        writer: field.writer.map(str::to_owned),
        site: site.cloned(),
    }
}
