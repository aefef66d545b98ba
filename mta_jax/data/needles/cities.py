"""Cities, each once, none of whose names is part of another's."""

CITIES = tuple(
    """
    Accra, Adelaide, Ahmedabad, Algiers, Almaty, Amman, Amsterdam, Ankara, Antwerp, Athens,
    Auckland, Baghdad, Baku, Bangkok, Barcelona, Beijing, Beirut, Belgrade, Bergen, Berlin,
    Bogota, Boston, Brasilia, Bratislava, Brisbane, Brussels, Bucharest, Budapest, Buenos Aires,
    Cairo, Calgary, Cape Town, Caracas, Cardiff, Casablanca, Chennai, Chicago, Chongqing,
    Cologne, Colombo, Copenhagen, Dakar, Dallas, Damascus, Denver, Detroit, Dhaka, Doha,
    Dresden, Dubai, Dublin, Durban, Edinburgh, Florence, Geneva, Genoa, Glasgow, Gothenburg,
    Guangzhou, Hamburg, Hanoi, Harare, Havana, Helsinki, Hong Kong, Honolulu, Houston, Istanbul,
    Jakarta, Jerusalem, Kabul, Kampala, Karachi, Kathmandu, Khartoum, Kingston, Kinshasa, Kolkata,
    Krakow, Kuala Lumpur, Kyiv, Kyoto, Lagos, Lahore, Leipzig, Lima, Lisbon, Ljubljana, London,
    Los Angeles, Luanda, Lusaka, Lyon, Madrid, Manila, Marrakesh, Marseille, Melbourne,
    Mexico City, Miami, Milan, Minsk, Mogadishu, Monterrey, Montevideo, Montreal, Moscow, Mumbai,
    Munich, Muscat, Nagoya, Nairobi, Naples, Nassau, New Delhi, New York, Nicosia, Osaka, Oslo,
    Ottawa, Palermo, Panama City, Paris, Perth, Philadelphia, Phnom Penh, Phoenix, Porto, Prague,
    Pretoria, Quito, Rabat, Reykjavik, Riga, Rio de Janeiro, Riyadh, Rome, Rotterdam,
    San Francisco, San Salvador, Santiago, Sao Paulo, Sarajevo, Seattle, Seoul, Seville,
    Shanghai, Singapore, Sofia, Stockholm, Stuttgart, Sydney, Taipei, Tallinn, Tashkent, Tbilisi,
    Tehran, Tirana, Tokyo, Toronto, Toulouse, Tripoli, Tunis, Turin, Ulaanbaatar, Valencia,
    Vancouver, Venice, Vienna, Vilnius, Warsaw, Wellington, Yerevan, Zagreb, Zurich
    """.replace("\n", " ").split(", ")
)
CITIES = tuple(" ".join(city.split()) for city in CITIES)
