"""TensorBoard: the bytes of an event file for records, made by the package's own messages and record writer."""

import base64
import io

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from job.trackers.messages import Picture, Record, Request

_VERSION = "brain.Event:2"  # what TensorFlow writes first


class TensorBoard:
    """Makes event files. Nothing is kept from one to the next."""

    def take(self, request: Request) -> bytes:
        """The event file. Rows have no clock: all events have the time at which the run began."""
        written = io.BytesIO()
        writer, time = RecordWriter(written), request.of.started_at
        writer.write(Event(wall_time=time, file_version=_VERSION).SerializeToString())
        for record in request.records:
            event = Event(wall_time=time, step=record.step, summary=_summary(record))
            writer.write(event.SerializeToString())
        return written.getvalue()

    def finish(self) -> None:
        """All is done."""


def _summary(record: Record) -> Summary:
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in record.scalars.items()]
    values += [_image(picture) for picture in record.pictures]
    for tag, text in record.texts.items():
        values += text_pb(tag, text).value
    return Summary(value=values)


def _image(picture: Picture) -> Summary.Value:
    """A picture with its prompt as the description, which TensorBoard shows beside it."""
    image = Summary.Image(
        width=picture.width,
        height=picture.height,
        colorspace=3,
        encoded_image_string=base64.b64decode(picture.png),
    )
    plugin = SummaryMetadata.PluginData(plugin_name=image_metadata.PLUGIN_NAME)
    metadata = SummaryMetadata(summary_description=picture.prompt, plugin_data=plugin)
    return Summary.Value(tag=picture.name, image=image, metadata=metadata)
