//! In which form an answer is wanted: the `Accept` header.

/// The form of objects in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    #[default]
    Object,
    /// Rows for people: `as=Table`.
    Table,
    /// Metadata only: `as=PartialObjectMetadata` or `as=PartialObjectMetadataList`.
    Metadata,
}

/// One media range of the header, in lower case but for parameter values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range<'a> {
    media: String,
    parameters: Vec<(String, &'a str)>,
    quality: f32,
}

/// Most media ranges that are looked at.
const MOST: usize = 32;

/// What the header names, in the order in which it is wanted.
pub(crate) fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = accept.split(',').take(MOST).filter_map(range).collect();
    // a stable sort: of two that are wanted alike the first one counts
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges.retain(|r| r.quality > 0.0);
    ranges
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|m| !m.is_empty())?.to_ascii_lowercase();
    let (mut parameters, mut quality) = (Vec::new(), 1.0f32);
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
        if key == "q" {
            quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
        } else {
            parameters.push((key, value));
        }
    }
    Some(Range { media, parameters, quality })
}

impl Range<'_> {
    pub(crate) fn is_json(&self) -> bool {
        matches!(&*self.media, "application/json" | "application/*" | "*/*")
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == name).map(|(_, v)| *v)
    }

    /// The form that it names, if it is one of ours.
    fn form(&self) -> Option<Form> {
        if !self.is_json() {
            return None;
        }
        match self.parameter("as") {
            None => Some(Form::Object),
            Some(_) if self.parameter("g") != Some("meta.k8s.io") || self.parameter("v") != Some("v1") => None,
            Some("Table") => Some(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata),
            Some(_) => None,
        }
    }
}

/// The form that is wanted most of those there are; None: there is none that will do. Without a header any will.
#[must_use]
pub fn form(accept: Option<&str>) -> Option<Form> {
    match accept.map(str::trim) {
        None | Some("") => Some(Form::Object),
        Some(accept) => ranges(accept).iter().find_map(Range::form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_wanted_most_that_there_is_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        // as kubectl and client-go's metadata client send it
        let kubectl = format!("{table},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json");
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                        application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let watched = "application/json;stream=watch";
        for (accept, form_wanted) in [
            (Some(&*kubectl), Some(Form::Table)),
            (Some(metadata), Some(Form::Metadata)),
            (Some(watched), Some(Form::Object)),
            (Some("application/vnd.kubernetes.protobuf, */*"), Some(Form::Object)),
            (Some("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"), Some(Form::Object)),
            (
                Some("application/json;q=0.1, APPLICATION/json; as=\"Table\" ;v=v1;g=meta.k8s.io;q=0.9"),
                Some(Form::Table),
            ),
            (Some("application/json;as=Row;v=v1;g=meta.k8s.io"), None),
            (Some("application/vnd.kubernetes.protobuf"), None),
            (Some("application/json;q=0"), None),
            (Some(""), Some(Form::Object)),
            (None, Some(Form::Object)),
        ] {
            assert_eq!(form(accept), form_wanted, "{accept:?}");
        }
    }
}
