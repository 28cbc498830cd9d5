//! Keys and values in pages of 32 tokens, and the beginnings that conversations share.
//!
//! A page holds the keys and values of all layers for 32 tokens in a row. It is written by one
//! conversation; once it is full it never changes, and whoever has the same tokens before and in it
//! may read it too: a persona of a thousand tokens is computed once for all conversations that begin
//! with it. Pages are found by what they hold and by the page before, never by a hash alone, and only
//! among pages of the same salt. The number of pages has a bound; when it is reached, the page that
//! was used longest ago and that nobody reads makes room.

use std::alloc;
use std::collections::HashMap;
use std::sync::Arc;

use memmap2::MmapMut;
use pulp::bytemuck::{cast_slice, cast_slice_mut};

use crate::shape::Shape;

/// Tokens of a page.
pub const PAGE: usize = 32;

/// Values of one key or value component for the tokens of a page.
pub type Lanes = [f32; PAGE];

/// Where things lie in a page: per layer and head the keys, one row for each component with the
/// tokens side by side, then the values, one row for each token.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    layers: usize,
    kv_heads: usize,
    head: usize,
}

impl Layout {
    /// The layout for a model.
    pub fn new(shape: &Shape) -> Self {
        Self { layers: shape.layers, kv_heads: shape.kv_heads, head: shape.head }
    }

    fn rows(self) -> usize {
        2 * self.layers * self.kv_heads * self.head
    }

    /// Bytes of a page.
    pub fn bytes(self) -> usize {
        self.rows() * size_of::<Lanes>()
    }

    fn keys(self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * self.head
    }
}

/// Keys and values of 32 tokens. A megabyte that stays for long among the short-lived buffers of
/// each step would leave holes in the allocator's memory, so it comes from the system.
pub struct Page {
    memory: MmapMut,
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let mut memory = map(self.memory.len());
        memory.copy_from_slice(&self.memory);
        Self { memory }
    }
}

/// Zeros. Ends the process where there is no memory left, as an allocation does.
fn map(bytes: usize) -> MmapMut {
    MmapMut::map_anon(bytes).unwrap_or_else(|_| {
        alloc::handle_alloc_error(
            alloc::Layout::array::<u8>(bytes).unwrap_or(alloc::Layout::new::<u8>()),
        )
    })
}

impl Page {
    fn new(layout: Layout) -> Self {
        Self { memory: map(layout.bytes()) }
    }

    fn rows(&self) -> &[Lanes] {
        cast_slice(&self.memory)
    }

    /// Writes the key and value of one head for the token at `slot`.
    pub fn write(
        &mut self,
        layout: Layout,
        (layer, head): (usize, usize),
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let from = layout.keys(layer, head);
        let rows: &mut [Lanes] = cast_slice_mut(&mut self.memory);
        let (keys, values) = rows[from..from + 2 * layout.head].split_at_mut(layout.head);
        for (row, key) in keys.iter_mut().zip(key) {
            row[slot] = *key;
        }
        let values = values.as_flattened_mut();
        values[slot * layout.head..][..layout.head].copy_from_slice(value);
    }

    /// The keys of a head: one row for each component.
    pub fn keys(&self, layout: Layout, layer: usize, head: usize) -> &[Lanes] {
        &self.rows()[layout.keys(layer, head)..][..layout.head]
    }

    /// The values of a head: `head` numbers for each token, one token after the other.
    pub fn values(&self, layout: Layout, layer: usize, head: usize) -> &[f32] {
        let from = layout.keys(layer, head) + layout.head;
        self.rows()[from..from + layout.head].as_flattened()
    }
}

/// The pages of one conversation.
#[derive(Default)]
pub struct Table {
    pub(crate) pages: Vec<Arc<Page>>,
    /// Pages from the front that the index knows.
    indexed: usize,
    /// The last of those, or the root.
    parent: u64,
}

impl Table {
    /// Makes room for `tokens` in all, beyond what a pool has given.
    pub(crate) fn cover(&mut self, tokens: usize, layout: Layout) {
        while self.pages.len() * PAGE < tokens {
            self.pages.push(Arc::new(Page::new(layout)));
        }
    }

    /// The page of a token, to be written.
    pub(crate) fn page_mut(&mut self, token: usize) -> &mut Page {
        // A page that is being written has one owner; were it shared, it would be copied.
        Arc::make_mut(&mut self.pages[token / PAGE])
    }
}

struct Known {
    id: u64,
    page: Arc<Page>,
    used: u64,
}

/// What a page must agree in to be the same: the page before it, and its tokens.
type Place = (u64, [u32; PAGE]);

/// All pages of a model.
pub struct Pages {
    layout: Layout,
    free: Vec<Arc<Page>>,
    /// Pages that may still be made.
    unmade: usize,
    known: HashMap<Place, Known>,
    roots: HashMap<String, u64>,
    next_id: u64,
    clock: u64,
}

impl Pages {
    /// At most so many pages as hold `tokens`; each is made when it is first needed.
    pub fn new(layout: Layout, tokens: usize) -> Self {
        Self {
            layout,
            free: Vec::new(),
            unmade: tokens.div_ceil(PAGE),
            known: HashMap::new(),
            roots: HashMap::new(),
            next_id: 1,
            clock: 0,
        }
    }

    /// Pages that somebody could have now.
    pub fn available(&self) -> usize {
        let idle = self.known.values().filter(|known| Arc::strong_count(&known.page) == 1);
        self.free.len() + self.unmade + idle.count()
    }

    /// An empty table that may share pages with those of the same salt.
    pub fn begin(&mut self, salt: &str) -> Table {
        let parent = match self.roots.get(salt) {
            Some(root) => *root,
            None => {
                self.forget_roots();
                let root = self.id();
                self.roots.insert(salt.to_owned(), root);
                root
            }
        };
        Table { pages: Vec::new(), indexed: 0, parent }
    }

    /// Salts come and go with tenants: those without a page are not kept for ever.
    fn forget_roots(&mut self) {
        const ROOTS: usize = 4096;
        if ROOTS <= self.roots.len() {
            let parents: std::collections::HashSet<u64> =
                self.known.keys().map(|(parent, _)| *parent).collect();
            self.roots.retain(|_, root| parents.contains(root));
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Puts known pages at the end of a table whose pages are full, for as long as they hold the
    /// `tokens` that come next. At least one token is left to be computed. Returns the tokens
    /// that need not be.
    pub fn share(&mut self, table: &mut Table, length: usize, tokens: &[u32]) -> usize {
        if !length.is_multiple_of(PAGE) || table.indexed * PAGE != length {
            return 0;
        }
        let (pieces, _) = tokens.as_chunks::<PAGE>();
        let most = tokens.len().saturating_sub(1) / PAGE;
        let mut shared = 0;
        for piece in &pieces[..most.min(pieces.len())] {
            let Some(known) = self.known.get(&(table.parent, *piece)) else { break };
            let page = Arc::clone(&known.page);
            let id = known.id;
            for spare in table.pages.drain(table.indexed..).collect::<Vec<_>>() {
                self.give_back(spare);
            }
            table.pages.push(page);
            table.indexed += 1;
            table.parent = id;
            shared += PAGE;
        }
        shared
    }

    /// Gives a table pages for `tokens` in all. False if there are not enough; what it got stays.
    pub fn reserve(&mut self, table: &mut Table, tokens: usize) -> bool {
        while table.pages.len() * PAGE < tokens {
            match self.take() {
                Some(page) => table.pages.push(page),
                None => return false,
            }
        }
        true
    }

    fn take(&mut self) -> Option<Arc<Page>> {
        if let Some(page) = self.free.pop() {
            return Some(page);
        }
        if self.unmade > 0 {
            self.unmade -= 1;
            return Some(Arc::new(Page::new(self.layout)));
        }
        // A page is always used later than those that follow it, see `note`: so the oldest is the
        // end of a chain, and nothing becomes unreachable.
        let idle = self.known.iter().filter(|(_, known)| Arc::strong_count(&known.page) == 1);
        let (place, _) = idle.min_by_key(|(_, known)| known.used)?;
        let place = *place;
        self.known.remove(&place).map(|known| known.page)
    }

    /// Makes the full pages of a table known. `tokens` are those that it holds. Where another
    /// conversation was faster, its page takes the place of the own one.
    pub fn note(&mut self, table: &mut Table, tokens: &[u32]) {
        let (pieces, _) = tokens.as_chunks::<PAGE>();
        for (at, piece) in pieces.iter().enumerate().skip(table.indexed) {
            let place = (table.parent, *piece);
            if let Some(known) = self.known.get(&place) {
                table.parent = known.id;
                let own = std::mem::replace(&mut table.pages[at], Arc::clone(&known.page));
                self.give_back(own);
            } else {
                let id = self.id();
                let page = Arc::clone(&table.pages[at]);
                self.known.insert(place, Known { id, page, used: 0 });
                table.parent = id;
            }
            table.indexed += 1;
        }
    }

    /// Takes a table's pages back. What is known of them can be found until the place is needed.
    pub fn end(&mut self, mut table: Table, tokens: &[u32], salt: &str) {
        let held = tokens.len().min(table.pages.len() * PAGE);
        self.note(&mut table, &tokens[..held]);
        self.touch(salt, &tokens[..held]);
        for page in table.pages {
            self.give_back(page);
        }
    }

    /// Marks a chain as used now, its end before its beginning.
    fn touch(&mut self, salt: &str, tokens: &[u32]) {
        let Some(mut parent) = self.roots.get(salt).copied() else { return };
        let (pieces, _) = tokens.as_chunks::<PAGE>();
        self.clock += pieces.len() as u64;
        for (at, piece) in (0u64..).zip(pieces) {
            let Some(known) = self.known.get_mut(&(parent, *piece)) else { return };
            known.used = known.used.max(self.clock - at);
            parent = known.id;
        }
    }

    fn give_back(&mut self, page: Arc<Page>) {
        // A page that others read, or that is known, is theirs.
        if Arc::strong_count(&page) == 1 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests;
