"""Event logs of flights: what happened, when, and when it could first be known (Spark SQL).

Every outcome is reported 15 minutes late. Weather of an hour is known when the hour is over.

The freshness promises are a little more than the longest quiet night of 2013 (no departure for
6 h 20 min, no arrival for 4 h 20 min), so a night that breaks one is a storm or a fault.
"""

from datetime import timedelta

from feature_repo.contract import EventLog

FLIGHT = ("flight", "carrier", "origin")

ARRIVALS = EventLog(
    name="arrivals",
    sql="""
      select carrier, flight, tailnum, origin, dest, arr_delay,
        case when arr_delay > 15 then 1.0D else 0.0D end as late,
        scheduled_arrival + arr_delay * interval '1' minute as event_timestamp,
        scheduled_arrival + arr_delay * interval '1' minute + interval '15' minute as available_at,
        cast(unix_seconds(scheduled_arrival + arr_delay * interval '1' minute) as double) as at
      from flights where arr_delay is not null
    """,
    tie_break=FLIGHT,
    ttl=timedelta(days=7),
    fresh_within=timedelta(hours=5),
)

DEPARTURES = EventLog(
    name="departures",
    sql="""
      select carrier, flight, tailnum, origin, dest, dep_delay,
        scheduled_departure + dep_delay * interval '1' minute as event_timestamp,
        scheduled_departure + dep_delay * interval '1' minute + interval '15' minute
          as available_at,
        cast(unix_seconds(scheduled_departure + dep_delay * interval '1' minute) as double) as at
      from flights where dep_delay is not null
    """,
    tie_break=FLIGHT,
    ttl=timedelta(days=7),
    fresh_within=timedelta(hours=7),
)

# A flight is pending from its scheduled departure until its departure is reported, and for
# three hours at most. The cap holds for every flight: one that held for cancelled flights only
# would tell them from late ones before anyone could.
PENDING = EventLog(
    name="pending",
    sql="""
      select carrier, flight, origin, dest, 1.0D as delta,
        cast(unix_seconds(scheduled_departure) as double) as scheduled,
        scheduled_departure as event_timestamp, scheduled_departure as available_at
      from flights
      union all
      select carrier, flight, origin, dest, -1.0D as delta,
        cast(unix_seconds(scheduled_departure) as double) as scheduled,
        scheduled_departure as event_timestamp,
        greatest(scheduled_departure, least(
          scheduled_departure + coalesce(dep_delay, 180) * interval '1' minute
            + interval '15' minute,
          scheduled_departure + interval '3' hour)) as available_at
      from flights
    """,
    tie_break=(*FLIGHT, "delta"),
    ttl=timedelta(days=7),
    fresh_within=timedelta(hours=7),
    scheduled=True,
)

# The published schedule, read no further than two hours ahead: a count over the last hour at one
# hour before a departure sees the departures around it.
SCHEDULE = EventLog(
    name="schedule",
    sql="""
      select carrier, flight, origin, dest,
        cast(unix_seconds(scheduled_departure) as double) as scheduled,
        scheduled_departure as event_timestamp,
        scheduled_departure - interval '2' hour as available_at
      from flights
    """,
    tie_break=FLIGHT,
    ttl=timedelta(days=7),
    fresh_within=timedelta(hours=7),
    scheduled=True,
)

# The same by scheduled arrival: what comes to the destination from New York.
INBOUND = EventLog(
    name="inbound",
    sql="""
      select carrier, flight, origin, dest,
        cast(unix_seconds(scheduled_arrival) as double) as scheduled,
        scheduled_arrival as event_timestamp,
        scheduled_arrival - interval '2' hour as available_at
      from flights
    """,
    tie_break=FLIGHT,
    ttl=timedelta(days=7),
    fresh_within=timedelta(hours=7),
    scheduled=True,
)

# Adding zero: of a small negative number, DuckDB's round makes -0.0, and Spark's 0.0.
WEATHER = EventLog(
    name="weather",
    sql="""
      select origin, temp, dewp, wind_speed, visib, precip, pressure, humid,
        round(wind_speed * cos(radians(wind_dir)), 3) + 0.0D as wind_north,
        round(wind_speed * sin(radians(wind_dir)), 3) + 0.0D as wind_east,
        time_hour as event_timestamp, time_hour + interval '1' hour as available_at,
        cast(unix_seconds(time_hour) as double) as observed
      from weather
    """,
    tie_break=("observed",),
    ttl=timedelta(days=2),
    fresh_within=timedelta(hours=3),
)
