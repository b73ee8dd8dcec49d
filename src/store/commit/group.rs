//! The batches of one transaction: a group commit. Pure, but for one warning.
//!
//! It guarantees that `n` goes on without a gap from what is committed, whatever a replay left out of the batches before, and that
//! a batch that turns out to be in already leaves the group whole.

use std::sync::Arc;

use bson::RawDocumentBuf;

use crate::batch::Batch;
use crate::bson_writer::{self as write, element};
use crate::error::{Error, Kind, Result};
use crate::event::ChangeEvent;

/// Consecutive batches, the next one to commit first.
#[derive(Debug)]
pub(super) struct Group {
    batches: Vec<Arc<Batch>>,
}

impl Group {
    pub(super) fn new(batches: Vec<Arc<Batch>>) -> Self {
        Self { batches }
    }

    /// The first and the last batch; none: all of it is committed.
    pub(super) fn ends(&self) -> Option<(&Batch, &Batch)> {
        Some((self.batches.first()?, self.batches.last()?))
    }

    /// Its changes, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = &ChangeEvent> {
        self.batches.iter().flat_map(|batch| &batch.events)
    }

    /// The command that inserts its changes (manual: "insert"). Written in one pass: through `insert_many` the driver copies and
    /// allocates each document twice more, in the one place where nothing else goes on meanwhile. What it may not exceed, 16 MiB,
    /// neither a group nor a batch does, which is one staging document.
    pub(super) fn insert_into(&self, collection: &str) -> Result<RawDocumentBuf> {
        let bytes: usize = self
            .batches
            .iter()
            .map(|batch| batch.bytes + 8 * batch.events.len())
            .sum();
        let mut buffer = Vec::with_capacity(bytes + 256);
        let command = write::begin_document(&mut buffer);
        write::string_field(&mut buffer, b"insert\0", collection);
        write::element(&mut buffer, element::BOOLEAN, b"ordered\0");
        buffer.push(1);
        write::element(&mut buffer, element::ARRAY, b"documents\0");
        write::array_of_documents(
            &mut buffer,
            self.events().map(|event| event.document.as_bytes()),
        );
        write::end_document(&mut buffer, command);
        RawDocumentBuf::from_bytes(buffer).map_err(|error| {
            Error::new(
                Kind::Internal,
                format!("the command of a commit is not BSON: {error}"),
            )
        })
    }

    /// Gives the changes their `n`, from `first_n` on, where they have another one.
    pub(super) fn number_events(&mut self, mut first_n: i64) {
        for batch in &mut self.batches {
            if batch.first_n != first_n {
                Arc::make_mut(batch).number_events(first_n);
            }
            first_n = batch.next.n + 1;
        }
    }

    /// Removes the batches up to `number`, which are committed; gives the changes in them.
    pub(super) fn remove_through(&mut self, number: i64) -> usize {
        let committed = self
            .batches
            .partition_point(|batch| batch.number() <= number);
        self.batches
            .drain(..committed)
            .map(|batch| batch.events.len())
            .sum()
    }

    /// Leaves out the changes that `is_there` tells of; gives how many.
    pub(super) fn leave_out(&mut self, is_there: impl Fn(&ChangeEvent) -> bool) -> usize {
        let mut left_out = 0;
        for batch in &mut self.batches {
            let there = batch.events.iter().filter(|event| is_there(event)).count();
            if there > 0 {
                let batch = Arc::make_mut(batch);
                batch.events.retain(|event| !is_there(event));
                batch.number_events(batch.first_n);
                left_out += there;
            }
        }
        left_out
    }

    /// Stores the change at `index`, which MongoDB refuses, as `{ $bson }`; refused even so, it is for an operator.
    pub(super) fn make_opaque(&mut self, index: usize, error: &Error) -> Result<()> {
        let Some(event) = self.event_mut(index) else {
            return Err(error.clone());
        };
        let id = event.id().to_owned();
        if is_opaque(&event.document) {
            return Err(Error::new(
                Kind::StoreRefused,
                format!(
                    "{error}; document {id} is refused even with its images as binary: look for a validator on the collection \
                     (db.getCollectionInfos()) and remove it"
                ),
            ));
        }
        event.make_opaque().map_err(|broken| {
            Error::new(
                Kind::Internal,
                format!("document {id} is not valid BSON: {broken}"),
            )
        })?;
        tracing::warn!(id, %error, "mongodb refuses a document; storing its images as binary (meta.opaque)");
        Ok(())
    }

    fn event_mut(&mut self, mut index: usize) -> Option<&mut ChangeEvent> {
        for batch in &mut self.batches {
            if index < batch.events.len() {
                return Arc::make_mut(batch).events.get_mut(index);
            }
            index -= batch.events.len();
        }
        None
    }
}

/// Whether the images of a document are stored as binary.
pub(super) fn is_opaque(document: &RawDocumentBuf) -> bool {
    let meta = document.get_document("meta");
    meta.is_ok_and(|meta| meta.get_bool("opaque").unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use bson::Document;

    use super::*;

    /// Batches 5, 6, … of so many changes each, numbered from 1 on.
    fn group(sizes: &[usize]) -> Group {
        let mut n = 0;
        let batches = sizes.iter().zip(5..).map(|(size, number)| {
            let mut batch = Batch::of_gaps(number, *size);
            batch.number_events(n + 1);
            n = batch.next.n;
            Arc::new(batch)
        });
        Group::new(batches.collect())
    }

    fn numbers(group: &Group) -> Vec<i64> {
        group
            .events()
            .map(|event| event.document.get_i64("n").unwrap())
            .collect()
    }

    fn last_n(group: &Group) -> i64 {
        group.ends().unwrap().1.next.n
    }

    #[test]
    fn numbers_go_on_from_what_is_committed_through_all_batches() {
        let mut group = group(&[2, 0, 3]);
        let shared = group.batches.clone();
        group.number_events(1);
        assert!(
            group
                .batches
                .iter()
                .zip(&shared)
                .all(|(batch, before)| Arc::ptr_eq(batch, before)),
            "nothing is copied where the numbers are right"
        );
        group.number_events(8);
        assert_eq!(numbers(&group), [8, 9, 10, 11, 12]);
        assert_eq!(last_n(&group), 12);
    }

    #[test]
    fn batches_that_are_in_leave_whole() {
        let mut group = group(&[2, 1, 3]);
        assert_eq!(group.remove_through(4), 0);
        assert_eq!(group.remove_through(6), 3);
        assert_eq!(group.ends().unwrap().0.number(), 7);
        assert_eq!(group.remove_through(9), 3);
        assert!(group.ends().is_none());
    }

    #[test]
    fn what_is_left_out_leaves_no_gap_behind_it() {
        let mut group = group(&[2, 1, 3]);
        let there: Vec<String> = [0, 2, 4]
            .iter()
            .map(|index| group.events().nth(*index).unwrap().id().to_owned())
            .collect();
        assert_eq!(
            group.leave_out(|event| there.iter().any(|id| id == event.id())),
            3
        );
        group.number_events(1);
        assert_eq!(numbers(&group), [1, 2, 3]);
        assert_eq!(last_n(&group), 3);
        assert_eq!(group.ends().unwrap().1.number(), 7, "the batches stay");
    }

    #[test]
    fn an_index_of_the_command_is_that_change_and_it_is_made_opaque_once() {
        let mut group = group(&[2, 0, 3]);
        let refused = Error::new(Kind::StoreRefused, "refused");
        group.make_opaque(3, &refused).unwrap();
        let opaque: Vec<bool> = group
            .events()
            .map(|event| is_opaque(&event.document))
            .collect();
        assert_eq!(opaque, [false, false, false, true, false]);
        let twice = group.make_opaque(3, &refused).unwrap_err();
        assert!(twice.to_string().contains("refused even with"), "{twice}");
        assert!(group.make_opaque(5, &refused).is_err(), "there is none");
    }

    #[test]
    fn the_command_holds_all_documents_in_order() {
        let group = group(&[2, 0, 12]);
        let command = group.insert_into("changes").unwrap();
        assert_eq!(command.get_str("insert").unwrap(), "changes");
        assert!(command.get_bool("ordered").unwrap());
        let documents = command.get_array("documents").unwrap();
        let sent: Vec<&[u8]> = documents
            .into_iter()
            .map(|document| document.unwrap().as_document().unwrap().as_bytes())
            .collect();
        let expected: Vec<&[u8]> = group
            .events()
            .map(|event| event.document.as_bytes())
            .collect();
        assert_eq!(sent, expected);
        let read = Document::try_from(&*command).unwrap();
        assert_eq!(read.get_array("documents").unwrap().len(), 14);
    }
}
