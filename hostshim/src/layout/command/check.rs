//! `check`: our layouts before witnesses.
//!
//! ```text
//!   witness          shm, wire        uring                  a property is
//!   lock file        x                x                        confirmed    by at least one
//!   headers                           <linux/io_uring.h>       gainsaid     by one: that is a difference
//!   BTF                               running kernel           not known    to any: told, and a failure where asked for
//!   the kernel                        IORING_REGISTER_QUERY
//! ```

use core::fmt::Write as _;
use std::collections::BTreeMap;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;
use spinwire_layouts::describe::{Number, Room};
use spinwire_layouts::uring;

use super::{Book, Build, Outcome, Select, naming, rooms_of};
use crate::layout::compare::{self, Aspect, Difference, Naming, Opinion};
use crate::layout::error::Unreadable;
use crate::layout::header::Compiler;
use crate::layout::model::{Catalog, Dialect, Wanted};
use crate::layout::source::{Reading, Source};
use crate::layout::{btf, lock, ours, print};

/// What `check` takes.
#[derive(Clone, Debug, ClapArgs)]
pub struct Check {
    /// Who is asked; without any, whoever the rooms name themselves.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// Only these rooms; `spinwire layout dump` shows them before the names of types.
    #[arg(long, value_delimiter = ',')]
    room: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// What stands before their names: with sw_, LaneCell is sw_lane_cell or sw_LaneCell.
    #[arg(long)]
    prefix: Option<String>,
    /// What becomes of that which no source knows. Unless said: it fails where sources were named.
    #[arg(long, value_name = "OUTCOME")]
    unknown: Option<Unknown>,
    #[command(flatten)]
    build: Build,
    /// Print JSON: {"same", "witnesses", "confirmed", "differences", "unknown", "not_checked"}.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Unknown {
    /// Exit code 1.
    Fail,
    /// Told, no more.
    Pass,
}

/// What the witnesses said of one property.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    is_confirmed: bool,
    is_gainsaid: bool,
}

/// What one witness said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Witness {
    origin: String,
    confirmed: usize,
    gainsaid: usize,
    silent: usize,
}

/// All that was said.
#[derive(Debug, Default)]
struct Trial {
    properties: BTreeMap<String, Standing>,
    witnesses: Vec<Witness>,
    differences: Vec<(String, Difference)>,
    not_checked: Vec<Unreadable>,
    remarks: Vec<String>,
}

pub(super) fn run(args: &Check, book: &Book<'_>) -> Result<Outcome, Unreadable> {
    let rooms = rooms_of(&args.room, book)?;
    let ours = ours::catalog(&rooms);
    if let Some(error) = args.select.missing(&[&ours]) {
        return Err(error);
    }
    let compiler = args.build.compiler();
    let with = Reading { rooms: book.rooms, compiler: &compiler };
    let naming = naming(&args.select, args.prefix.as_ref());
    let mut trial = Trial::default();
    for room in &rooms {
        trial.enter(room, &args.select);
    }
    if args.sources.is_empty() {
        trial.by_own_witnesses(&rooms, book, &compiler, &args.select)?;
    } else {
        for name in &args.sources {
            let source = Source::parse(name)?;
            let mut catalog = source.open(&with, &wanted(&rooms, &naming))?;
            if matches!(source, Source::Header(_) | Source::Elf(_) | Source::Btf(_)) {
                catalog.origin = source.to_string();
            }
            for room in &rooms {
                trial.hear(room, &catalog, &naming, &args.select);
                if source == Source::Btf(btf::KERNEL.into()) {
                    trial.ask_the_kernel(room, &args.select);
                }
            }
            trial.remarks.extend(catalog.remarks);
        }
    }
    trial.sum_up(&rooms, args)
}

/// What is asked of a witness for these rooms.
fn wanted(rooms: &[Room], naming: &Naming) -> Wanted {
    let types = rooms.iter().flat_map(|room| {
        let names = |layout| [Dialect::C, Dialect::Kernel].map(|d| naming.theirs(room, layout, d));
        room.layouts.iter().flat_map(move |layout| names(layout)).flatten()
    });
    let mut types: Vec<String> = types.collect();
    types.sort_unstable();
    types.dedup();
    let numbers = rooms.iter().flat_map(|room| room.numbers.iter().copied().flatten());
    let mut numbers: Vec<String> = numbers.map(|number| number.name.to_owned()).collect();
    numbers.sort_unstable();
    Wanted::Named { types, numbers }
}

impl Trial {
    /// Enters all properties of a room that are asked about.
    fn enter(&mut self, room: &Room, select: &Select) {
        for layout in room.layouts {
            let name = ours::qualified(room, layout);
            if !select.takes(&crate::layout::model::Type { name: name.clone(), ..ours::of(layout) })
            {
                continue;
            }
            for field in layout.fields {
                self.properties.insert(format!("{name}.{}", field.name), Standing::default());
            }
            self.properties.insert(name, Standing::default());
        }
        if select.only.is_empty() {
            for number in room.numbers.iter().copied().flatten() {
                self.properties.insert(number.name.to_owned(), Standing::default());
            }
        }
    }

    /// Each room before those that it names itself.
    fn by_own_witnesses(
        &mut self,
        rooms: &[Room],
        book: &Book<'_>,
        compiler: &Compiler,
        select: &Select,
    ) -> Result<(), Unreadable> {
        let naming = Naming::default();
        let with = Reading { rooms: book.rooms, compiler };
        if let Some(text) = book.lock {
            let catalog = lock::read(book.lock_path, text)?;
            for room in rooms {
                self.hear(room, &catalog, &naming, select);
            }
            // What others have defined is not confirmed by our having written it down.
            for room in rooms.iter().filter(|room| room.foreign.is_some()) {
                self.forget(room);
            }
        }
        for room in rooms {
            let Some(foreign) = room.foreign else {
                continue;
            };
            let headers = foreign.headers.iter().map(|header| format!("<{header}>"));
            let mut sources = vec![Source::Header(headers.collect())];
            if foreign.is_kernel {
                sources.push(Source::Btf(btf::KERNEL.into()));
            }
            for source in sources {
                match source.open(&with, &wanted(&[*room], &naming)) {
                    Ok(catalog) => {
                        self.hear(room, &catalog, &naming, select);
                        self.remarks.extend(catalog.remarks);
                    }
                    Err(e) if matches!(source, Source::Header(_)) => {
                        let remedy = format!("apt-get install gcc libc6-dev {}", foreign.package);
                        self.not_checked.push(Unreadable { remedy, ..e });
                    }
                    Err(e) => self.not_checked.push(e),
                }
            }
            self.ask_the_kernel(room, select);
        }
        Ok(())
    }

    /// Takes what was confirmed of a room as not heard.
    fn forget(&mut self, room: &Room) {
        let start = format!("{}::", room.name);
        let numbers: Vec<&str> = room.numbers.iter().copied().flatten().map(|n| n.name).collect();
        for (key, standing) in &mut self.properties {
            if key.starts_with(&start) || numbers.contains(&key.as_str()) {
                standing.is_confirmed = false;
            }
        }
    }

    /// The masks of flags that a kernel since Linux 6.18 knows.
    fn ask_the_kernel(&mut self, room: &Room, select: &Select) {
        if room.name != uring::ROOM.name || !select.only.is_empty() {
            return;
        }
        let Ok(answer) = crate::uring::query() else {
            return; // Older kernels cannot be asked.
        };
        let masks: [(&[Number], u64); 4] = [
            (uring::setup::LIST, answer.ring_setup_flags),
            (uring::features::LIST, answer.feature_flags),
            (uring::enter::LIST, answer.enter_flags),
            (uring::sqe::LIST, answer.sqe_flags),
        ];
        let mut catalog = Catalog::new("the kernel, by IORING_REGISTER_QUERY", Dialect::Kernel);
        for (list, mask) in masks {
            let known = list.iter().filter(|number| number.value & mask == number.value);
            catalog.numbers.extend(known.map(|number| (number.name.to_owned(), number.value)));
        }
        let numbers_only = Room { layouts: &[], ..*room };
        self.hear(&numbers_only, &catalog, &Naming::default(), select);
    }

    /// Hears what a witness has to say of a room.
    fn hear(&mut self, room: &Room, witness: &Catalog, naming: &Naming, select: &Select) {
        let mut heard =
            Witness { origin: witness.origin.clone(), confirmed: 0, gainsaid: 0, silent: 0 };
        if witness.dialect == Dialect::Ours {
            self.hear_mirror(room, witness, select, &mut heard);
        } else {
            for layout in room.layouts {
                let name = ours::qualified(room, layout);
                for (field, opinion) in compare::opinions(room, layout, witness, naming) {
                    let key = field.map_or_else(|| name.clone(), |field| format!("{name}.{field}"));
                    self.note(&key, opinion, &mut heard);
                }
            }
        }
        for number in room.numbers.iter().copied().flatten() {
            let opinion = match witness.number(number.name) {
                None => Opinion::Silent,
                Some(value) if value == number.value => Opinion::Same,
                Some(value) => Opinion::Differs(vec![Difference {
                    what: number.name.to_owned(),
                    aspect: Aspect::Value,
                    left: format!("{:#x}", number.value),
                    left_at: None,
                    right: format!("{value:#x}"),
                    right_at: None,
                }]),
            };
            self.note(number.name, opinion, &mut heard);
        }
        if heard.confirmed + heard.gainsaid > 0 || room.layouts.len() > heard.silent {
            self.witnesses.push(heard);
        }
    }

    /// A witness that speaks as we do: whatever it says of a type has to be the same.
    fn hear_mirror(
        &mut self,
        room: &Room,
        witness: &Catalog,
        select: &Select,
        heard: &mut Witness,
    ) {
        let mut ours = ours::catalog(&[*room]);
        ours.numbers.clear();
        ours.is_whole = false;
        ours.retain(|ty| select.takes(ty));
        let mut theirs = witness.clone();
        theirs.is_whole = false;
        theirs.numbers.clear();
        let mut found: BTreeMap<String, Vec<Difference>> = BTreeMap::new();
        for difference in compare::mirror(&ours, &theirs, &[]) {
            found.entry(difference.what.clone()).or_default().push(difference);
        }
        for ty in ours.types() {
            let names = ty.members.iter().map(|m| (Some(m), format!("{}.{}", ty.name, m.name)));
            for (member, key) in core::iter::once((None, ty.name.clone())).chain(names) {
                let there = theirs.find(&ty.name);
                let is_known = match member {
                    Some(member) => there.is_some_and(|there| there.member(&member.name).is_some()),
                    None => there.is_some(),
                };
                let opinion = match found.remove(&key) {
                    Some(differences) => Opinion::Differs(differences),
                    None if is_known => Opinion::Same,
                    None => Opinion::Silent,
                };
                self.note(&key, opinion, heard);
            }
        }
        // Members that only the witness has.
        for (key, differences) in found {
            self.note(&key, Opinion::Differs(differences), heard);
        }
    }

    fn note(&mut self, key: &str, opinion: Opinion, heard: &mut Witness) {
        let is_new_member = !self.properties.contains_key(key);
        if is_new_member && !matches!(opinion, Opinion::Differs(_)) {
            return; // Not asked about.
        }
        if is_new_member && !self.properties.keys().any(|k| key.starts_with(&format!("{k}."))) {
            return;
        }
        let standing = self.properties.entry(key.to_owned()).or_default();
        match opinion {
            Opinion::Same => {
                standing.is_confirmed = true;
                heard.confirmed += 1;
            }
            Opinion::Differs(found) => {
                standing.is_gainsaid = true;
                heard.gainsaid += 1;
                let named =
                    found.into_iter().map(|found| Difference { what: key.to_owned(), ..found });
                self.differences.extend(named.map(|found| (heard.origin.clone(), found)));
            }
            Opinion::Silent => heard.silent += 1,
        }
    }

    fn sum_up(&self, rooms: &[Room], args: &Check) -> Result<Outcome, Unreadable> {
        let confirmed = self.properties.values().filter(|standing| standing.is_confirmed).count();
        let is_accepted = |key: &str| {
            rooms.iter().any(|room| {
                let listed = room.foreign.map_or(&[][..], |foreign| foreign.unconfirmed);
                let own = key.strip_prefix(room.name).and_then(|rest| rest.strip_prefix("::"));
                let layout = own.map(|own| own.split('.').next().unwrap_or(own));
                listed.iter().any(|name| *name == key || Some(*name) == layout)
            })
        };
        let unknown = self.properties.iter().filter(|(key, standing)| {
            !standing.is_confirmed && !standing.is_gainsaid && !is_accepted(key)
        });
        let unknown: Vec<&str> = unknown.map(|(key, _)| key.as_str()).collect();
        if confirmed == 0 && self.differences.is_empty() {
            if let Some(first) = self.not_checked.first() {
                return Err(first.clone());
            }
            let why = "no source knows any of our layouts";
            let remedy = "say how they are called there: --as OURS=THEIRS, or --prefix";
            return Err(Unreadable::new(args.sources.join(", "), why, remedy));
        }
        let usual = if args.sources.is_empty() { Unknown::Pass } else { Unknown::Fail };
        let may_pass = args.unknown.unwrap_or(usual) == Unknown::Pass;
        let is_same = self.differences.is_empty() && (may_pass || unknown.is_empty());
        let text = if args.json {
            self.as_json(is_same, confirmed, &unknown)
        } else {
            self.in_words(confirmed, &unknown)
        };
        Ok(Outcome { text, is_same })
    }

    fn as_json(&self, is_same: bool, confirmed: usize, unknown: &[&str]) -> String {
        let witness = |w: &Witness| json!({ "source": w.origin, "confirmed": w.confirmed, "gainsaid": w.gainsaid, "unknown": w.silent });
        let difference = |(origin, found): &(String, Difference)| {
            let mut value = print::of_differences(core::slice::from_ref(found));
            let mut value = value.get_mut(0).map(serde_json::Value::take).unwrap_or_default();
            if let Some(object) = value.as_object_mut() {
                object.insert("source".to_owned(), json!(origin));
            }
            value
        };
        print::json_text(&json!({
            "same": is_same,
            "properties": self.properties.len(),
            "confirmed": confirmed,
            "witnesses": self.witnesses.iter().map(witness).collect::<Vec<_>>(),
            "differences": self.differences.iter().map(difference).collect::<Vec<_>>(),
            "unknown": unknown,
            "not_checked": self.not_checked.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "remarks": self.remarks,
        }))
    }

    fn in_words(&self, confirmed: usize, unknown: &[&str]) -> String {
        let mut text = String::new();
        for (origin, difference) in &self.differences {
            text.push_str(&print::differences(core::slice::from_ref(difference), "ours", origin));
        }
        let row = |w: &Witness| {
            let numbers = [w.confirmed, w.gainsaid, w.silent].map(|n| n.to_string());
            numbers.into_iter().chain([print::plain(&w.origin)]).collect()
        };
        let head = ["CONFIRMS", "GAINSAYS", "UNKNOWN", "SOURCE"].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> =
            core::iter::once(head).chain(self.witnesses.iter().map(row)).collect();
        text.push_str(&print::columns(&rows, 3, ""));
        // Writing to a String does not fail.
        for remark in &self.remarks {
            let _written = writeln!(text, "note: {}", print::plain(remark));
        }
        for error in &self.not_checked {
            let _written = writeln!(text, "NOT CHECKED: {}", print::plain(&error.to_string()));
        }
        if !unknown.is_empty() {
            let (count, all) = (unknown.len(), self.properties.len());
            let names = print::plain(&shortened(unknown));
            let _written = writeln!(text, "no source knows {count} of {all}: {names}");
        }
        let gainsaid = self.properties.values().filter(|standing| standing.is_gainsaid).count();
        let _written = match gainsaid {
            0 => writeln!(
                text,
                "{confirmed} of {} properties are confirmed, none is gainsaid.",
                self.properties.len()
            ),
            _ => writeln!(text, "{gainsaid} of {} properties differ.", self.properties.len()),
        };
        text
    }
}

/// The names of what nobody knows: of a structure that nobody knows at all only its own, and not more than can be read.
fn shortened(unknown: &[&str]) -> String {
    const SHOWN: usize = 24;
    let is_part = |name: &str| {
        name.rsplit_once('.').is_some_and(|(layout, _)| unknown.binary_search(&layout).is_ok())
    };
    let names: Vec<&str> = unknown.iter().copied().filter(|name| !is_part(name)).collect();
    let shown: Vec<&str> = names.iter().copied().take(SHOWN).collect();
    let mut text = shown.join(", ");
    if names.len() > SHOWN {
        let _written = write!(text, ", .. ({} names; --json has all)", names.len());
    }
    text
}
