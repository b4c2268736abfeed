//! The variables of a unit that belong to no function.

use std::collections::HashMap;

use gimli::UnitRef;

use super::Debug;
use super::units::{Cursor, Entry};
use crate::budget::BudgetReader;
use crate::limits::{MAX_MEMBERS, MAX_NAME_CHARS};

/// A static variable.
pub struct StaticSite<'d, 'b> {
    /// The name, with the namespaces around it.
    pub name: String,
    pub cursor: Cursor<'d, 'b>,
}

/// The static variables of a unit, in the order of the unit.
#[derive(Default)]
pub struct StaticSites<'d, 'b> {
    pub sites: Vec<StaticSite<'d, 'b>>,
    /// Whether the unit has more than [`MAX_MEMBERS`], which are not listed.
    pub has_more: bool,
}

/// Returns the static variables of a unit that have a location.
///
/// # Errors
/// Returns an error if the entries are malformed.
pub fn static_sites<'d, 'b>(
    debug: &'d Debug<'b>,
    unit: UnitRef<'d, BudgetReader<'b>>,
) -> gimli::Result<StaticSites<'d, 'b>> {
    let mut sites = Vec::new();
    // Variables that are defined outside of the class or namespace that declares them.
    let mut specified = Vec::new();
    let mut declared = HashMap::new();
    let mut entries = unit.entries_raw(None)?;
    let mut current = Entry::null();
    // The namespaces around the entry, with their depths.
    let mut namespaces: Vec<(isize, String)> = Vec::new();
    let mut outside: Option<isize> = None;
    while !entries.is_empty() && sites.len() <= MAX_MEMBERS {
        let depth = entries.next_depth();
        if !entries.read_entry(&mut current)? {
            continue;
        }
        debug.take_steps(current.attrs().len() as u64)?;
        if outside.is_some_and(|of| depth > of) {
            continue;
        }
        outside = None;
        while namespaces.last().is_some_and(|(of, _)| *of >= depth) {
            namespaces.pop();
        }
        match current.tag() {
            gimli::DW_TAG_compile_unit
            | gimli::DW_TAG_partial_unit
            | gimli::DW_TAG_skeleton_unit => {}
            gimli::DW_TAG_namespace
            | gimli::DW_TAG_module
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type => {
                let own = debug.name(unit, &current)?;
                // A class that is defined in a type unit has its name there.
                let name = match debug.follow(unit, current.attr_value(gimli::DW_AT_signature)) {
                    Some(ty) if own.is_none() => debug.name(ty.unit, &ty.entry()?)?,
                    _ => own,
                };
                namespaces.push((depth, name.unwrap_or_else(|| "(anonymous namespace)".into())));
            }
            gimli::DW_TAG_variable | gimli::DW_TAG_member => {
                outside = Some(depth);
                let name = debug.name(unit, &current)?.map(|name| qualify(&namespaces, &name));
                debug.take_steps(name.as_ref().map_or(0, |name| name.len() as u64))?;
                let is_declaration = [gimli::DW_AT_declaration, gimli::DW_AT_external]
                    .iter()
                    .any(|name| current.has_attr(*name));
                // The compiler's own variables are artificial: tables of virtual functions.
                let is_artificial = current.has_attr(gimli::DW_AT_artificial);
                if let Some(name) = name.clone().filter(|_| is_declaration && !is_artificial) {
                    declared.insert(current.offset(), name);
                }
                let has_value = [gimli::DW_AT_location, gimli::DW_AT_const_value]
                    .iter()
                    .any(|name| current.has_attr(*name));
                if current.tag() != gimli::DW_TAG_variable || !has_value || is_artificial {
                    continue;
                }
                let cursor = Cursor { unit, at: current.offset() };
                match (name, current.attr_value(gimli::DW_AT_specification)) {
                    (Some(name), _) => sites.push(StaticSite { name, cursor }),
                    (None, Some(gimli::AttributeValue::UnitRef(at))) => {
                        specified.push((sites.len(), at));
                        sites.push(StaticSite { name: String::new(), cursor });
                    }
                    // A string literal or another constant without a name.
                    (None, _) => {}
                }
            }
            _ => outside = Some(depth),
        }
    }
    for (site, declaration) in specified {
        if let (Some(site), Some(name)) = (sites.get_mut(site), declared.get(&declaration)) {
            site.name.clone_from(name);
        }
    }
    sites.retain(|site| !site.name.is_empty());
    let has_more = sites.len() > MAX_MEMBERS;
    sites.truncate(MAX_MEMBERS);
    Ok(StaticSites { sites, has_more })
}

/// Puts the namespaces around a name before it.
fn qualify(namespaces: &[(isize, String)], name: &str) -> String {
    let mut whole = String::new();
    for (_, namespace) in namespaces {
        if whole.len() + namespace.len() > MAX_NAME_CHARS {
            break;
        }
        whole.push_str(namespace);
        whole.push_str("::");
    }
    whole + name
}
