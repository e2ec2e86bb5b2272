//! A storage server's fail points: the steps of a rebuild, of what is stored here for another
//! server's, and of an order to trash.

use crate::fail_point::points;

points! {
    /// How far a storage server has come. Each name says what is done by then.
    pub FailPoint {
        /// It is this order's turn.
        OrderReceived = "order-received",
        /// The temporary files are there, and empty.
        SpoolsMade = "spools-made",
        /// The headers of the sources were read.
        HeadersRead = "headers-read",
        /// The first columns were read.
        ColumnsRead = "columns-read",
        /// The first columns are written.
        ColumnsWritten = "columns-written",
        /// All is written, and gave the recorded root.
        RootsChecked = "roots-checked",
        /// The own shard is synced under its temporary name.
        OwnSynced = "own-synced",
        /// It was read back.
        OwnReadBack = "own-read-back",
        /// It has its name, which is not synced.
        OwnNamed = "own-named",
        /// Its name is synced.
        OwnKept = "own-kept",
        /// A shard for another server is about to be sent.
        PeerPutBegun = "peer-put-begun",
        /// That server has it.
        PeerPutDone = "peer-put-done",
        /// All is done but to say so.
        AnswerReady = "answer-ready",
        /// A shard that comes has its temporary file.
        PutBegun = "put-begun",
        /// Some of it is written.
        PutPartWritten = "put-part-written",
        /// All of it is written and checked.
        PutWritten = "put-written",
        /// It is synced under its temporary name.
        PutSynced = "put-synced",
        /// The damaged one in its place is in quarantine.
        PutDamagedAside = "put-damaged-aside",
        /// It has its name, which is not synced.
        PutNamed = "put-named",
        /// Its name is synced.
        PutKept = "put-kept",
        /// It is this order's turn to trash, and the day's trash is there.
        TrashBegun = "trash-begun",
        /// A shard is in the trash, and neither name is synced.
        TrashMoved = "trash-moved",
        /// All is done but to say so.
        TrashSynced = "trash-synced",
    }
}
